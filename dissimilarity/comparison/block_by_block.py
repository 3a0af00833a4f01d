"""The activations of a model larger than memory: it runs block by block, and what it passes goes to files.

A comparison of every layer with every layer needs all activations of a model at once, and then its weights no more.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from dissimilarity.capture.offloaded import offloaded
from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.elementwise import predictions_of
from dissimilarity.comparison.saved import SavedActivations, open_source
from dissimilarity.probe.batches import Inputs
from dissimilarity.probe.steps import Steps, groups_of


@contextmanager
def read_once(
    source: nn.Module | SavedActivations, inputs: Inputs | None, sites: Sequence[str]
) -> Iterator[nn.Module | SavedActivations]:
    """Yield a model, or its activations if its weights are read as it runs, so that this happens once.

    Args:
        source: a model, or saved activations.
        inputs: what the model reads.
        sites: sites that are read; may include the logits.

    Raises:
        ValueError: such a model, and sequences with padding or in two tokenizations.
        NotInStepsError: such a model does not run block by block.
    """
    if isinstance(source, SavedActivations) or offloaded(source) is None:
        yield source
        return
    if not isinstance(inputs, Tensor):
        raise ValueError(
            "expected sequences of equal length that all models read in the same tokens, which is what models can be "
            "compared on block by block; leave out block_by_block, or pass other sequences"
        )
    with TemporaryDirectory(prefix="activations-") as folder:
        _write(source, inputs, sites, Path(folder))
        yield open_source(folder, "")


def _write(model: nn.Module, tokens: Tensor, sites: Sequence[str], folder: Path) -> None:
    """Write the activations of every site to a file of its name."""
    groups = groups_of(tokens)
    steps = Steps(model, groups, [site for site in sites if site != LOGITS])

    def add(number: int, acts: dict[str, Tensor]) -> None:
        for site in list(acts):
            _add(acts.pop(site), groups[number][0], len(tokens), folder / f"{site}.npy")

    with steps.attached():
        while not (steps.is_at_head or steps.has_ended):
            for number, acts in enumerate(steps.step()):
                add(number, acts)
        for number in range(len(groups)):
            logits = predictions_of(steps.finish(number))
            add(number, steps.acts[number])
            if LOGITS in sites and logits is not None:
                add(number, {LOGITS: logits})


def _add(acts: Tensor, places: Tensor, sequences: int, path: Path) -> None:
    """Put the activations of some sequences into the file of all."""
    values = acts.float().cpu().numpy()
    shape = (sequences, *values.shape[1:])
    array = np.load(path, mmap_mode="r+") if path.exists() else open_memmap(path, "w+", np.float32, shape)
    array[places.numpy()] = values
