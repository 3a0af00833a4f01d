"""The activations of references as a run keeps them: in memory, on disk past a size, and over interruptions."""

from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from dissimilarity.comparison.activations import IN_MEMORY, ModelActivations, load_chunks, save_chunks
from dissimilarity.tracking.models_on_probe import Probing


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
        """Keeps a reference over interruptions."""
        save_chunks(taken.chunks, self.path(trainer, label))

    def put_previous(self, trainer: pl.Trainer, step: int, taken: ModelActivations) -> None:
        """Keeps the model as it was at a tick.

        The file of the checkpoint before is kept too, since that one counts until the new one is in place.
        """
        path = self.path(trainer, f"previous-{step}")
        if not path.exists():
            save_chunks(taken.chunks, path)
        files = path.parent.glob(f"previous-*-{trainer.global_rank:03d}.safetensors")
        for old in sorted(files, key=lambda file: int(file.name.split("-")[1]))[:-2]:
            old.unlink()

    def external(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str, model: nn.Module, sites: list[str]
    ) -> ModelActivations:
        """The activations of a reference that does not change, in memory or, past a size, mapped from a file."""
        view = self.probing.view(label)
        taken = self.probing.take(trainer, pl_module, model, sites, view)
        if taken.nbytes() <= IN_MEMORY:
            return taken
        self.put(trainer, label, taken)
        own = {group for _, _, group in self.probing.own_slices(trainer, view)}
        return taken.on_disk(load_chunks([self.path(trainer, label)], pl_module.device, own))

    def recall(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str, sites: list[str]
    ) -> ModelActivations:
        """Activations of the model's own states, from the files that the processes of an earlier session saved.

        Raises:
            ValueError: some are missing.
        """
        view = self.probing.views[0]
        own = {group for _, _, group in self.probing.own_slices(trainer, view)}
        paths = sorted(self.folder.glob(f"references/{name}-[0-9][0-9][0-9].safetensors"))
        chunks = load_chunks(paths, pl_module.device, own)
        if {group for _, groups in chunks for group in groups} != own:
            raise ValueError(
                f"{self.folder / 'references'} lacks activations of {name}, so the run cannot be continued; "
                "start anew with overwrite=true"
            )
        return ModelActivations(view.plan, sites, chunks, sync=trainer.world_size > 1).summed()
