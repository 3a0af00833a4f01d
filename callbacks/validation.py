"""Validation at the end of every training, logged at the step it belongs to."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping


def has_stopped(callback: pl.Callback) -> bool:
    """Return whether a callback is an EarlyStopping that has waited for as long as it may."""
    return isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience


class FinalValidation(pl.Callback):
    """A callback that validates after the last step too, and logs validation at the number of updates.

    Lightning alone logs the validation after update k at step k - 1, and the metrics of a training step at the number
    of updates that its weights had seen, so that one axis would mean two things.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do no further step of a training that EarlyStopping ended, and that was killed before its summary."""
        trainer.should_stop |= any(map(has_stopped, trainer.early_stopping_callbacks))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the loop after the last step, which makes it validate first."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the step of the record; Lightning reads it from a metric of that name."""
        pl_module.log("step", float(trainer.global_step), on_step=False, on_epoch=True)
