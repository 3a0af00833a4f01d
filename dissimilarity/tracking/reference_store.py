"""The activations of references as a run keeps them: in memory, on disk past a size, and over interruptions."""

from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from dissimilarity.comparison import activations as snapshot
from dissimilarity.comparison.activations import Snapshot
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

    def put(self, trainer: pl.Trainer, label: str, taken: Snapshot) -> None:
        """Keeps a reference over interruptions."""
        snapshot.save(taken, self.path(trainer, label))

    def put_previous(self, trainer: pl.Trainer, step: int, taken: Snapshot) -> None:
        """Keeps the model as it was at a tick.

        The files of the two checkpoints before are kept too, since those count until the new one is in place.
        """
        path = self.path(trainer, f"previous-{step}")
        if not path.exists():
            snapshot.save(taken, path)
        files = path.parent.glob(f"previous-*-{trainer.global_rank:03d}.safetensors")
        for old in sorted(files, key=lambda file: int(file.name.split("-")[1]))[:-3]:
            old.unlink()

    def external(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str, model: nn.Module, sites: list[str]
    ) -> Snapshot:
        """The activations of a reference that does not change, in memory or, past a size, mapped from a file."""
        view = self.probing.view(label)
        taken = self.probing.take(trainer, pl_module, model, sites, view)
        if taken.nbytes() <= snapshot.IN_MEMORY:
            return taken
        self.put(trainer, label, taken)
        own = {group for _, _, group in self.probing.own_slices(trainer, view)}
        return Snapshot(snapshot.load([self.path(trainer, label)], pl_module.device, own), taken.side)

    def recall(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str, sites: list[str]) -> Snapshot:
        """Activations of the model's own states, from the files that the processes of an earlier session saved.

        Raises:
            ValueError: some are missing.
        """
        view = self.probing.views[0]
        own = {group for _, _, group in self.probing.own_slices(trainer, view)}
        paths = sorted(self.folder.glob(f"references/{name}-[0-9][0-9][0-9].safetensors"))
        chunks = snapshot.load(paths, pl_module.device, own)
        if {group for _, groups in chunks for group in groups} != own:
            raise ValueError(
                f"{self.folder / 'references'} lacks activations of {name}, so the run cannot be continued; "
                "start anew with overwrite=true"
            )
        side = view.layout.side(sites, sync=trainer.world_size > 1)
        return snapshot.accumulate(chunks, side)
