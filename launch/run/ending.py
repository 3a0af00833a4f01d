"""How a training ended: `status` and `why` of summary.json.

| status | meaning | the same command |
| --- | --- | --- |
| finished | all steps are done | leaves it alone |
| diverged | a loss became NaN or infinite, at step `diverged_at` | leaves it alone |
| stopped early | EarlyStopping ended it, or the epochs of the config are over | leaves it alone |
| stopped | `trainer.max_time` is over, or something else, such as an alert, asked the trainer to stop | continues it |
| interrupted | by Ctrl-C or a signal | continues it |
| failed | by an error | continues it |
"""

import math
from typing import Any

import pytorch_lightning as pl

from callbacks.interrupted import Interrupted, OutOfTime
from callbacks.metrics import tables_of
from callbacks.validation import why_stopped_early

LOSSES = ("train/loss", "val/loss")


def ended(trainer: pl.Trainer) -> dict[str, Any]:
    """Return `status`, and `why` if it is not finished, of a training that Lightning has ended.

    Raises:
        ValueError: If the training made no step.
    """
    step, last = trainer.global_step, trainer.max_steps
    if not step:
        raise ValueError("the training made no step: leave trainer.limit_train_batches and trainer.max_epochs out")
    diverged_at = _diverged_at(trainer)
    if diverged_at is not None:
        return {"status": "diverged", "why": "a loss is not finite", "diverged_at": diverged_at}
    if step >= last:
        return {"status": "finished"}
    early = why_stopped_early(trainer)
    if early is not None:
        return {"status": "stopped early", "why": early}
    reasons = [reason for callback in trainer.callbacks if (reason := getattr(callback, "why_to_stop", ""))]  # pyright: ignore
    if reasons:
        return {"status": "stopped", "why": "; ".join(reasons)}
    if trainer.max_epochs not in (None, -1) and not trainer.should_stop:
        why = f"trainer.max_epochs={trainer.max_epochs}, after step {step:,} of {last:,}"
        return {"status": "stopped early", "why": why}
    return {"status": "stopped", "why": f"after step {step:,} of {last:,}"}


def broken_off(error: BaseException) -> dict[str, Any]:
    """Return `status` and `why` of a training that ended with an exception."""
    if isinstance(error, OutOfTime):
        return {"status": "stopped", "why": str(error)}
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        return {"status": "interrupted", "why": str(error) or type(error).__name__}
    return {"status": "failed", "why": f"{type(error).__name__}: {error}"}


def _diverged_at(trainer: pl.Trainer) -> int | None:
    """Return the first step whose logged loss is not finite; None without one."""
    rows = (item for table in tables_of(trainer) for item in table.steps().items())
    return next((step for step, row in rows if any(not math.isfinite(row.get(key, 0.0)) for key in LOSSES)), None)
