"""Run a model larger than memory block by block, and keep its activations in files.

Comparing every layer with every layer needs all activations of a model at once, but not its weights.
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
from dissimilarity.comparison.array_files import arrays_in
from dissimilarity.comparison.elementwise import predictions_of
from dissimilarity.comparison.saved import SavedActivations
from dissimilarity.probe.batches import Inputs
from dissimilarity.probe.steps import Steps, groups_of


@contextmanager
def read_once(
    source: nn.Module | SavedActivations, label: str, inputs: Inputs | None, sites: Sequence[str]
) -> Iterator[nn.Module | SavedActivations]:
    """Yield a source as it is; run a model whose weights stay in files once, and yield its activations.

    Args:
        source: a model, or saved activations.
        label: name of the model in messages.
        inputs: what the model reads.
        sites: sites that are read; may include the logits.

    Raises:
        ValueError: the model's weights stay in files, and sequences have padding or two tokenizations, or the model
            has no logits.
        NotInStepsError: the model does not run block by block.
        RuntimeError: the model does not reach a site.
    """
    if isinstance(source, SavedActivations) or offloaded(source) is None:
        yield source
        return
    if not isinstance(inputs, Tensor):
        raise ValueError(
            f"{label}: models run block by block only on sequences of equal length that all of them tokenize alike; "
            "pass such sequences, or leave out study.block_by_block=true"
        )
    with TemporaryDirectory(prefix="activations-") as folder:
        _write(source, inputs, sites, Path(folder))
        missing = [site for site in sites if site != LOGITS and not _file(Path(folder), site).exists()]
        if missing:
            raise RuntimeError(f"{label}: the forward pass did not reach {missing[0]}; choose another site")
        yield SavedActivations(label, arrays_in(Path(folder)), None)


def _write(model: nn.Module, tokens: Tensor, sites: Sequence[str], folder: Path) -> None:
    """Write the activations of every site to a file of its name."""
    groups = groups_of(tokens)
    steps = Steps(model, groups, [site for site in sites if site != LOGITS])

    def add(number: int, acts: dict[str, Tensor]) -> None:
        for site in list(acts):
            _add(acts.pop(site), groups[number][0], len(tokens), _file(folder, site))

    with steps.attached():
        for parts in steps.passed():
            for number, acts in enumerate(parts):
                add(number, acts)
        for number in range(len(groups)):
            logits = predictions_of(steps.finish(number))
            add(number, steps.acts[number])
            if LOGITS in sites and logits is not None:
                add(number, {LOGITS: logits})


def _file(folder: Path, site: str) -> Path:
    return folder / f"{site}.npy"


def _add(acts: Tensor, places: Tensor, sequences: int, path: Path) -> None:
    """Put the activations of some sequences into the file of all."""
    values = acts.float().cpu().numpy()
    shape = (sequences, *values.shape[1:])
    array = np.load(path, mmap_mode="r+") if path.exists() else open_memmap(path, "w+", np.float32, shape)
    array[places.numpy()] = values
