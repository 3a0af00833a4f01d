"""Ctrl-C and SIGTERM end a training between two steps, with everything saved."""

import os
import signal
import threading
from typing import Any

import pytorch_lightning as pl

from callbacks.interrupted import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals(pl.Callback):
    """Turns the first SIGINT or SIGTERM into `Interrupted` at the next step boundary; the second acts at once.

    Other callbacks see it in `on_exception`, where they may save: no batch is half done. Under DDP all processes stop
    at the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, here because Lightning installs handlers of its own before."""
        self._received = 0
        if threading.current_thread() is threading.main_thread():
            self._previous = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, where the updates, the logs and the validation of the step before are complete.

        Raises:
            Interrupted: a signal has come since the last call.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        received = self._received
        if trainer.world_size > 1:
            received = int(trainer.strategy.reduce(_tensor(received, pl_module), reduce_op="max"))
        if received:
            raise Interrupted(received, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keeps the signals until the other callbacks have saved, except after other errors."""
        if not isinstance(exception, Interrupted):
            self._restore()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._restore()

    def _note(self, signum: int, frame: Any) -> None:
        self._received = signum
        # not print: the signal may have come in the middle of one
        os.write(2, b"\nstopping after this step; once more stops at once\n")
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}


def _tensor(value: int, pl_module: pl.LightningModule) -> Any:
    import torch

    return torch.tensor(value, device=pl_module.device, dtype=torch.int32)
