"""Validation at the end of every training, logged at the step it belongs to."""

from typing import Any

import pytorch_lightning as pl


def why_stopped_early(trainer: pl.Trainer) -> str | None:
    """Return why EarlyStopping ended a training, in this start or an earlier one; None if it did not."""
    reasons = (callback.stopping_reason_message for callback in trainer.early_stopping_callbacks)
    return next((reason.strip() for reason in reasons if reason), None)


class FinalValidation(pl.Callback):
    """A callback that validates after the last step too, and logs validation at the number of updates.

    Lightning alone logs the validation after update k at step k - 1, and the metrics of a training step at the number
    of updates that its weights had seen, so that one axis would mean two things.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do no further step of a training that EarlyStopping ended, and that was killed before its summary."""
        trainer.should_stop |= why_stopped_early(trainer) is not None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the loop after the last step, which makes it validate first."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the step of the record; Lightning reads it from a metric of that name."""
        pl_module.log("step", float(trainer.global_step), on_step=False, on_epoch=True)
