"""How a training ended, in a few words: the `status` of summary.json and `why`.

| status | meaning | the same command |
| --- | --- | --- |
| finished | all steps are made | leaves it alone |
| diverged | a loss became NaN or infinite, at step `diverged_at` | leaves it alone |
| stopped early | EarlyStopping decided that it is enough, or the epochs of the config are over | leaves it alone |
| stopped | `trainer.max_time` is over, or something else asked the trainer to stop | goes on |
| interrupted | by Ctrl-C or a signal | goes on |
| failed | by an error | goes on |
"""

import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from callbacks.interrupted import Interrupted, OutOfTime
from callbacks.metrics import MetricsLogger

LOSSES = ("train/loss", "val/loss")


def ended(trainer: pl.Trainer) -> dict[str, Any]:
    """`status`, and `why` where it is not finished, of a training that Lightning has brought to its end.

    Raises:
        ValueError: there was no step to make.
    """
    step, last = trainer.global_step, trainer.max_steps
    if not step:
        raise ValueError("not one step was made: leave trainer.limit_train_batches and trainer.max_epochs out")
    diverged_at = _diverged_at(trainer)
    if diverged_at is not None:
        return {"status": "diverged", "why": "a loss is not finite", "diverged_at": diverged_at}
    if step >= last:
        return {"status": "finished"}
    for callback in trainer.early_stopping_callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return {"status": "stopped early", "why": callback.stopping_reason_message.strip()}
    if trainer.max_epochs not in (None, -1) and not trainer.should_stop:
        why = f"trainer.max_epochs={trainer.max_epochs}, after step {step} of {last}"
        return {"status": "stopped early", "why": why}
    return {"status": "stopped", "why": f"after step {step} of {last}"}


def broken_off(error: BaseException) -> dict[str, Any]:
    """`status` and `why` of a training that ended in an exception."""
    if isinstance(error, OutOfTime):
        return {"status": "stopped", "why": str(error)}
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        return {"status": "interrupted", "why": str(error) or type(error).__name__}
    return {"status": "failed", "why": f"{type(error).__name__}: {error}"}


def _diverged_at(trainer: pl.Trainer) -> int | None:
    """The first step at which a loss was logged that is not finite."""
    tables = [logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)]
    rows = (item for table in tables for item in table.steps().items())
    return next((step for step, row in rows if any(not math.isfinite(row.get(key, 0.0)) for key in LOSSES)), None)
