"""The activations of references as a run keeps them: in memory, on disk past a size, and over interruptions.

Those of the model's own earlier states are kept to save time: its checkpoint of the same step stands in for them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor, nn

from dissimilarity.comparison.activations import IN_MEMORY, Chunks, ModelActivations, load_chunks, save_chunks
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.tracking.models_on_probe import Probing
from dissimilarity.tracking.weights import step_weights

log = logging.getLogger(__name__)


class Shelf:
    """The files ``references/NAME-RANK.safetensors`` of a run, of which each process has its own.

    Args:
        folder: the run's.
        probing: what the activations are of.
    """

    def __init__(self, folder: Path, probing: Probing) -> None:
        self.folder, self.probing = folder, probing

    def path(self, trainer: pl.Trainer, label: str) -> Path:
        """Where this process keeps what it has of a reference."""
        return self.folder / "references" / f"{label.replace('/', '_')}-{trainer.global_rank:03d}.safetensors"

    def put(self, trainer: pl.Trainer, label: str, taken: ModelActivations) -> None:
        """Keeps a state of the model over interruptions; where that fails, a checkpoint of that step has to do."""
        try:
            save_chunks(taken.chunks, self.path(trainer, label))
        except Exception as error:
            log.warning("the activations of %s could not be kept (%s); its checkpoint has its weights", label, error)

    def put_previous(self, trainer: pl.Trainer, step: int, taken: ModelActivations) -> None:
        """Keeps the model as it was at a tick.

        The files of the two checkpoints before are kept too, since those count until the new one is in place.
        """
        path = self.path(trainer, f"previous-{step}")
        if not path.exists():
            self.put(trainer, f"previous-{step}", taken)
        files = path.parent.glob(f"previous-*-{trainer.global_rank:03d}.safetensors")
        for old in sorted(files, key=lambda file: int(file.name.split("-")[1]))[:-3]:
            old.unlink()

    def external(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str, model: nn.Module, sites: list[str]
    ) -> ModelActivations:
        """The activations of a reference that does not change, in memory or, past a size, mapped from a file."""
        view = self.probing.view(label)
        taken = self.probing.take(trainer, pl_module, model, sites, view)
        if taken.nbytes() <= IN_MEMORY:
            return taken
        save_chunks(taken.chunks, self.path(trainer, label))
        own = {group for _, _, group in self.probing.own_slices(trainer, view)}
        return taken.on_disk(load_chunks([self.path(trainer, label)], pl_module.device, own))

    def recall(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str, step: int, sites: list[str]
    ) -> ModelActivations:
        """The model's activations at an earlier step, as they were kept, or else from its checkpoint of that step.

        Args:
            trainer, pl_module: of the training.
            name: under which they were kept, by all processes of an earlier session.
            step: at which they were.
            sites: of the model.

        Raises:
            ValueError: neither is there.
        """
        sync, view = trainer.world_size > 1, self.probing.views[0]
        chunks = self._chunks(trainer, pl_module, name)
        if all(gathered(chunks is not None, sync)):
            assert chunks is not None
            return ModelActivations(view.plan, sites, chunks, sync=sync).summed()
        with together(sync):
            weights = step_weights(self.folder / "checkpoints", step)
        with _weights_of(pl_module, weights):
            return self.probing.take(trainer, pl_module, pl_module, sites, view)

    def _chunks(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> Chunks | None:
        """This process's share of the activations that were kept; None where they are not there or not whole."""
        own = {group for _, _, group in self.probing.own_slices(trainer, self.probing.views[0])}
        paths = sorted(self.folder.glob(f"references/{name}-[0-9][0-9][0-9].safetensors"))
        try:
            chunks = load_chunks(paths, pl_module.device, own)
        except Exception as error:
            log.warning("the activations of %s cannot be read (%s); its checkpoint is read instead", name, error)
            return None
        return chunks if {group for _, groups in chunks for group in groups} == own else None


@contextmanager
def _weights_of(pl_module: pl.LightningModule, weights: dict[str, Tensor]) -> Iterator[None]:
    """The module with other weights for a while."""
    current = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
    try:
        pl_module.load_state_dict(weights)
        yield
    finally:
        pl_module.load_state_dict(current)
