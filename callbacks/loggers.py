"""A training outlives its loggers: an error in one is a warning, and one that hangs is abandoned."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from pytorch_lightning.loggers.logger import DummyLogger, Logger

SECONDS = 90.0
"""Longest time for one call of a logger: more than any of them waits for its own server."""


def guarded(logger: Logger, seconds: float = SECONDS) -> "GuardedLogger":
    """Return a logger of which no call raises, or takes longer than a number of seconds."""
    return GuardedLogger(logger, seconds)


def close(loggers: list[Logger]) -> None:
    """Close the loggers of a training whose own files are written, each within its time."""
    for logger in loggers:
        if isinstance(logger, GuardedLogger):
            logger.close()


class GuardedLogger(Logger):
    """A logger that calls another one on a separate thread.

    The first failure is a warning; later ones are silent. A call that takes too long is the last one: a thread cannot
    be stopped, but nobody waits for it any more. `finalize`, in which loggers wait for their servers, waits until
    `close`, when the run has its summary.

    Args:
        logger: any logger for Lightning; what it has beyond their interface (`log_image`, ...) is here too.
        seconds: longest time for one call.

    Examples:
        >>> from callbacks.metrics import MetricsLogger
        >>> GuardedLogger(MetricsLogger("runs/x")).name
        'metrics'
    """

    def __init__(self, logger: Logger, seconds: float = SECONDS) -> None:
        super().__init__()
        self._logger, self._seconds = logger, seconds
        self._thread = _Thread()
        self._warned = self._abandoned = False
        self._status = "success"

    @property
    def name(self) -> str | None:
        """Name of the experiment."""
        return self._call(lambda: self._logger.name)

    @property
    def version(self) -> int | str | None:
        """Version of the experiment."""
        return self._call(lambda: self._logger.version)

    @property
    def log_dir(self) -> str | None:
        """Folder of the logger's files, if it says so."""
        return self._call(lambda: self._logger.log_dir)

    @property
    def save_dir(self) -> str | None:
        """Folder of the logger's files, if it says so."""
        return self._call(lambda: self._logger.save_dir)

    @property
    def experiment(self) -> Any:
        """What the logger logs to; after a failure, a dummy that takes any call."""
        experiment = self._call(lambda: getattr(self._logger, "experiment", None))
        return DummyLogger().experiment if experiment is None else _Guarded(experiment, self._call)

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log numbers."""
        self._call(lambda: self._logger.log_metrics(*args, **kwargs))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log the config."""
        self._call(lambda: self._logger.log_hyperparams(*args, **kwargs))

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Log the model's graph."""
        self._call(lambda: self._logger.log_graph(*args, **kwargs))

    def save(self) -> None:
        """Let the logger write what it holds."""
        self._call(self._logger.save)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Show the logger a checkpoint."""
        self._call(lambda: self._logger.after_save_checkpoint(checkpoint_callback))

    def finalize(self, status: str) -> None:
        """Note how the training ended, for `close`."""
        self._status = status

    def close(self) -> None:
        """Close the logger, and after a failure, what the process would wait for at its end."""
        self._call(lambda: self._logger.finalize(self._status))
        finish = getattr(self._logger, "finish", None)
        if finish is not None:
            self._call(finish)
        abandon = getattr(self._logger, "abandon", None)
        if self._warned and abandon is not None:
            wait([_Thread().submit(abandon)], self._seconds)

    def __getattr__(self, name: str) -> Any:
        """Return what the logger has beyond Lightning's interface: methods guarded, values unchanged."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(_Guarded(self._logger, self._call), name)

    def _call(self, task: Callable[[], Any]) -> Any:
        """Return the result of a task on the logger's thread; None if it fails, takes too long, or was abandoned."""
        if self._abandoned:
            return None
        result = self._thread.submit(task)
        wait([result], self._seconds)
        if not result.done():
            self._abandoned = True
            self._warn(f"did not answer for {self._seconds:.0f} s and is abandoned")
            return None
        error = result.exception()
        if error is not None:
            self._warn(f"failed ({type(error).__name__}: {error})")
            return None
        return result.result()

    @property
    def _label(self) -> str:
        return type(self._logger).__name__

    def _warn(self, fault: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._label} {fault}; training continues, its tables are complete", stacklevel=4)


class _Guarded:
    """An object of a logger; calls of its methods are guarded, its values are unchanged."""

    def __init__(self, inner: Any, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner, self._call = inner, call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute
        return lambda *args, **kwargs: self._call(lambda: attribute(*args, **kwargs))


class _Thread:
    """A thread that does one task after the other; the process does not wait for it at its end."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._started = False

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        """Add a task to the queue."""
        result: Future[Any] = Future()
        self._tasks.put((task, result))
        if not self._started:
            self._started = True
            threading.Thread(target=self._work, daemon=True).start()
        return result

    def _work(self) -> None:
        while True:
            task, result = self._tasks.get()
            try:
                result.set_result(task())
            except BaseException as error:  # a logger's SystemExit would end its thread without a word
                result.set_exception(error)
