"""`trainer.max_time`: one start of a training ends after some time, as after a signal, and the next one goes on."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from callbacks.checkpoints import ScheduledCheckpoints
from callbacks.interrupted import OutOfTime


class TimeLimit(Timer):
    """Raises `OutOfTime` between two steps, with everything saved, when the time of this start is over.

    Lightning's own Timer counts the time of earlier starts too, so that a run that it has stopped once never gets
    further, and validates where it stops, so that the tables differ from those of a run that was not stopped.
    """

    def on_fit_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Nothing: the time begins with the training."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, where the step before is complete; of several processes when the time of one is over.

        Raises:
            OutOfTime: the time is over.
        """
        left = self.time_remaining()
        if batch_idx % trainer.accumulate_grad_batches or left is None:
            return
        if trainer.strategy.reduce_boolean_decision(left <= 0, all=False):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ScheduledCheckpoints):
                    callback.save(trainer)
            raise OutOfTime(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Nothing: the step is not yet complete."""

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Nothing: the time is looked at between two steps."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: each start has its own time."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""
