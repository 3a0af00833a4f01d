"""Ctrl-C and SIGTERM end a training between two steps, with everything saved."""

from typing import Any, NoReturn

import pytorch_lightning as pl
import torch

from callbacks import signals
from callbacks.checkpoints import save_now
from callbacks.interrupted import Interrupted


class StopSignals(pl.Callback):
    """A callback that turns the first SIGINT or SIGTERM into `Interrupted` between two steps; the second acts at once.

    Before the first step and after the last one, a signal ends the program where it is (`signals.Stopped`), because
    there is nothing to finish. With several processes it waits from the start, so that no process leaves the others
    alone in a collective; all stop at the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Install the handlers, and keep Lightning from installing its own.

        Lightning's handler ends a training with exit code 0, kills the other processes, and broadcasts from wherever
        the signal arrives.
        """
        if stage != "fit":
            return
        self._previous = signals.take_over()
        connector = trainer._signal_connector
        register = connector.register_signal_handlers

        def register_ours_last() -> None:
            register()  # Slurm's signal to restart the job stays Lightning's
            signals.take_over()

        connector.register_signal_handlers = register_ours_last
        signals.defer(trainer.world_size > 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let signals wait from now on."""
        signals.defer(True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop here, where the updates, the logs and the validation of the step before are complete.

        Everything is saved before the exception is raised, because what others do about it, such as figures, may take
        longer than a cluster waits.

        Raises:
            Interrupted: a signal arrived since the last call.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        signum = signals.received()
        if trainer.world_size > 1:
            tensor = torch.tensor(signum, device=pl_module.device, dtype=torch.int32)
            signum = int(trainer.strategy.reduce(tensor, reduce_op="max"))
        if signum:
            save_now(trainer)
            _stop(trainer, signum)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop here after the last step, which is saved; the next start makes figures and summary.

        Raises:
            Interrupted: a signal arrived since the last step began.
        """
        signals.defer(False)
        if signals.received():
            _stop(trainer, signals.received())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the handlers; after a signal before the first step, stop the other processes."""
        signals.defer(False)
        if isinstance(exception, signals.Stopped) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(exception.signum)
        self._give_back()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the handlers."""
        self._give_back()

    def _give_back(self) -> None:
        signals.give_back(self._previous)
        self._previous = {}


def _stop(trainer: pl.Trainer, signum: int) -> NoReturn:
    signals.forget()
    raise Interrupted(signum, trainer.global_step)
