"""PyTorch Lightning callbacks that follow a model while it trains, for any LightningModule.

The measurements are those of ``dissimilarity.tracking``; this module connects them to a Trainer and its loggers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from dissimilarity.tracking.logger_keys import STEP_AXIS
from dissimilarity.tracking.penalties import PenaltyTracker
from dissimilarity.tracking.ticker import Ticker
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState


class TickerCallback(Ticker, pl.Callback):
    """The hooks of a tracker: when a tick is due, what the loggers show, and what a continuation needs."""

    _keys_with_axis: frozenset[str] = frozenset()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the references and continue the table."""
        self.start(training_state(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tick at step 0, which has a checkpoint by now."""
        if trainer.global_step == 0 and self.last_tick is None:
            self._tick(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tick when the schedule says so, once per step."""
        step = trainer.global_step
        if step and step != self.last_tick and self.is_due(step, last_step(trainer)):
            self._tick(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what a continuation needs beside the checkpoint."""
        self.before_checkpoint(training_state(trainer, pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finish the table and the figures, after the last checkpoint."""
        if stage == "fit":
            self._publish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finish the table and the figures, unless the program must end at once."""
        if isinstance(exception, Exception):
            self._publish(trainer)

    def _tick(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = self.tick(training_state(trainer, pl_module))
        if trainer.is_global_zero and metrics:
            define_axes(trainer, metrics.keys() - self._keys_with_axis)
            self._keys_with_axis |= frozenset(metrics)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def _publish(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self.last_tick is not None:
            pictures, curves = self.publish()
            log_pictures(trainer, pictures)
            log_curves(trainer, curves)


class DissimilarityTracker(Tracker, TickerCallback):
    """Lightning callback that measures how dissimilar the model in training is to reference models.

    Example:
        >>> import torch
        >>> from dissimilarity import CKA
        >>> probe = torch.randint(50, (8, 16))
        >>> tracker = DissimilarityTracker(["init", "previous"], [CKA()], probe, "tracked", sites="layers.*", every=100)
        >>> tracker.is_due(8, last_step=1000)
        True
    """


class StitchingTracker(PenaltyTracker, TickerCallback):
    """Lightning callback that measures what it costs to stitch the model in training into references, and the reverse.

    Example:
        >>> import torch
        >>> tracker = StitchingTracker(["init"], lambda n: torch.zeros(n, 8, dtype=torch.long), "tracked", every=100)
        >>> tracker.is_due(8, last_step=1000), tracker.is_due(100, last_step=1000)
        (False, True)
    """


def training_state(trainer: pl.Trainer, pl_module: pl.LightningModule) -> TrainingState:
    """Return what a tick needs to know of a trainer."""
    return TrainingState(
        model=pl_module,
        step=trainer.global_step,
        last_step=last_step(trainer),
        device=pl_module.device,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        autocast=trainer.precision_plugin.forward_context,
    )


def last_step(trainer: pl.Trainer) -> int | None:
    """Return the step at which training ends; None if unknown."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None


def define_axes(trainer: pl.Trainer, keys: Iterable[str]) -> None:
    """Give each key its x axis by exact name, because W&B takes any of several globs that match."""
    for logger in trainer.loggers:
        with suppress(Exception):  # a broken logger must not end the training; it says so when it logs
            for key in sorted(keys):
                logger.experiment.define_metric(key, step_metric=STEP_AXIS)  # pyright: ignore[reportAttributeAccessIssue]


def log_pictures(trainer: pl.Trainer, pictures: Sequence[Path]) -> None:
    """Send finished figures (PNG) to the loggers that take images."""
    for logger in trainer.loggers:
        log_image = getattr(logger, "log_image", None)
        if log_image is not None:
            for picture in pictures:
                if picture.suffix == ".png":
                    log_image(key=f"figures/{picture.stem}", images=[str(picture)])


def log_curves(trainer: pl.Trainer, records: Sequence[Mapping[str, Any]]) -> None:
    """Send the whole table of curves, heat maps included, to the loggers that take tables."""
    for logger in trainer.loggers:
        log_table = getattr(logger, "log_table", None)
        if log_table is not None and records:
            log_table(key="curves", columns=list(records[0]), data=[list(record.values()) for record in records])
