"""Validation at the end of every training, and logged at the step it belongs to."""

from typing import Any

import pytorch_lightning as pl


class FinalValidation(pl.Callback):
    """Validates after the last step too, whatever `val_check_interval` is, and logs validation at the updates done.

    Lightning alone would log the validation after update k at step k - 1, and a training step's row at the updates
    that its weights had seen: one axis would then mean two things.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells the loop that this was the last step: it then validates before it ends."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the row its step; Lightning takes it from a metric of that name."""
        pl_module.log("step", float(trainer.global_step), on_step=False, on_epoch=True)
