"""Ctrl-C and SIGTERM end a training between two steps, with everything saved."""

from typing import Any, NoReturn

import pytorch_lightning as pl

from callbacks import signals
from callbacks.checkpoints import ScheduledCheckpoints
from callbacks.interrupted import Interrupted


class StopSignals(pl.Callback):
    """Turns the first SIGINT or SIGTERM into `Interrupted` at the next step boundary; the second acts at once.

    Before the first step and after the last one a signal ends the program where it is (`signals.Stopped`): there is
    nothing to finish. Of several processes none leaves the others alone in a collective, so there it waits from the
    start; all stop at the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the signals over, and keeps Lightning from it: its handler ends a training with exit code 0.

        That one also kills the other processes, and broadcasts from wherever the signal has come.
        """
        if stage != "fit":
            return
        self._previous = signals.take_over()
        connector = trainer._signal_connector
        register = connector.register_signal_handlers

        def registered() -> None:
            register()  # Slurm's signal for a new start of the job is its business
            signals.take_over()

        connector.register_signal_handlers = registered
        signals.defer(trainer.world_size > 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets signals wait from here on."""
        signals.defer(True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, where the updates, the logs and the validation of the step before are complete.

        All is saved before the exception is raised: what others do about it, such as figures, may take longer than a
        cluster waits.

        Raises:
            Interrupted: a signal has come since the last call.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        received = signals.received()
        if trainer.world_size > 1:
            received = int(trainer.strategy.reduce(_tensor(received, pl_module), reduce_op="max"))
        if received:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ScheduledCheckpoints):
                    callback.save(trainer)
            _stop(trainer, received)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops here after the last step, which has been saved: figures and summary are left to the next start.

        Raises:
            Interrupted: a signal has come since the last step began.
        """
        signals.defer(False)
        if signals.received():
            _stop(trainer, signals.received())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the signals back; where one has come before the first step, the other processes are told."""
        signals.defer(False)
        if isinstance(exception, signals.Stopped) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(exception.signum)
        self._give_back()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        signals.give_back(self._previous)
        self._previous = {}


def _stop(trainer: pl.Trainer, signum: int) -> NoReturn:
    signals.forget()
    raise Interrupted(signum, trainer.global_step)


def _tensor(value: int, pl_module: pl.LightningModule) -> Any:
    import torch

    return torch.tensor(value, device=pl_module.device, dtype=torch.int32)
