"""`trainer.max_time`: one start of a training ends after some time, as after a signal, and the next one continues."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from callbacks.checkpoints import save_now
from callbacks.interrupted import OutOfTime


class TimeLimit(Timer):
    """A timer that raises `OutOfTime` between two steps, with everything saved, when the time of this start is over.

    Each start makes one step at least, even if the tick before it takes longer than that.

    Lightning's Timer counts the time of earlier starts too, so that a run that it stopped once never gets any further,
    and it validates where it stops, so that the tables differ from those of an uninterrupted run.
    """

    def on_fit_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the time starts with the training."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, where the step before is complete, once the time of any process is over.

        Raises:
            OutOfTime: the time is over.
        """
        seconds_left = self.time_remaining()
        is_first = trainer.global_step == self._first_step
        if is_first or batch_idx % trainer.accumulate_grad_batches or seconds_left is None:
            return
        if trainer.strategy.reduce_boolean_decision(seconds_left <= 0, all=False):
            save_now(trainer)
            raise OutOfTime(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the step is not complete yet."""

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the clock is read between two steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: each start has its own time."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""
