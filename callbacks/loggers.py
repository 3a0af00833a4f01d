"""A training outlives its loggers."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers.logger import Logger

GUARDED = (
    "log_metrics",
    "replay",
    "log_hyperparams",
    "log_image",
    "log_table",
    "save",
    "finalize",
    "after_save_checkpoint",
    "log_checkpoint",
)


def guarded(logger: Logger) -> Logger:
    """The same logger, whose methods no longer raise: the first failure is a warning, and then it stays silent."""
    state = {"warned": False}
    for name in GUARDED:
        method = getattr(logger, name, None)
        if callable(method):
            setattr(logger, name, _guard(method, type(logger).__name__, state))
    return logger


def _guard(method: Callable[..., Any], logger: str, state: dict[str, bool]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not state["warned"]:
                state["warned"] = True
                warnings.warn(
                    f"{logger} failed ({type(error).__name__}: {error}); the training goes on, its tables are whole",
                    stacklevel=2,
                )
            return None

    return call
