"""A training outlives its loggers: what they raise is a warning, and what hangs is given up."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from pytorch_lightning.loggers.logger import DummyLogger, Logger

SECONDS = 90.0
"""The longest that one call of a logger may take: beyond what any of them waits for its own server."""


def guarded(logger: Logger, seconds: float = SECONDS) -> "GuardedLogger":
    """The same logger, of which no call raises, or takes longer than some seconds."""
    return GuardedLogger(logger, seconds)


def close(loggers: list[Logger]) -> None:
    """Ends the loggers of a training whose own files are written, each within its time."""
    for logger in loggers:
        if isinstance(logger, GuardedLogger):
            logger.close()


class GuardedLogger(Logger):
    """Stands before a logger, and calls it on a thread of its own.

    The first failure is a warning, the rest is silence. A call that takes too long is the last one: a thread cannot be
    stopped, but nobody waits for it any more. `finalize`, in which loggers wait for their servers, is put off until
    `close`, when the run has its summary.

    Args:
        logger: any of Lightning's. What it has beyond their interface (`log_image`, ...) is here too.
        seconds: how long a call may take.
    """

    def __init__(self, logger: Logger, seconds: float = SECONDS) -> None:
        super().__init__()
        self._logger, self._seconds = logger, seconds
        self._thread = _Thread()
        self._warned = self._given_up = False
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
        """Where the logger's files are, if it says so."""
        return self._call(lambda: self._logger.log_dir)

    @property
    def save_dir(self) -> str | None:
        """Where the logger's files are, if it says so."""
        return self._call(lambda: self._logger.save_dir)

    @property
    def experiment(self) -> Any:
        """What the logger logs to; where it has failed, something that takes any call."""
        experiment = self._call(lambda: getattr(self._logger, "experiment", None))
        return DummyLogger().experiment if experiment is None else _Guarded(experiment, self._call)

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Logs numbers."""
        self._call(lambda: self._logger.log_metrics(*args, **kwargs))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Logs the config."""
        self._call(lambda: self._logger.log_hyperparams(*args, **kwargs))

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Logs the model's graph."""
        self._call(lambda: self._logger.log_graph(*args, **kwargs))

    def save(self) -> None:
        """Lets the logger write what it holds."""
        self._call(self._logger.save)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Shows the logger a checkpoint."""
        self._call(lambda: self._logger.after_save_checkpoint(checkpoint_callback))

    def finalize(self, status: str) -> None:
        """Notes how the training ended, for `close`."""
        self._status = status

    def close(self) -> None:
        """Ends the logger, and where it has failed, what the process would wait for as it ends."""
        self._call(lambda: self._logger.finalize(self._status))
        finish = getattr(self._logger, "finish", None)
        if finish is not None:
            self._call(finish)
        abandon = getattr(self._logger, "abandon", None)
        if self._warned and abandon is not None:
            wait([_Thread().submit(abandon)], self._seconds)

    def __getattr__(self, name: str) -> Any:
        """What this logger has beyond Lightning's interface: methods guarded, values as they are."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(_Guarded(self._logger, self._call), name)

    def _call(self, task: Callable[[], Any]) -> Any:
        """The result of a task of the logger's thread; None where it raises, takes too long, or was given up before."""
        if self._given_up:
            return None
        result = self._thread.submit(task)
        wait([result], self._seconds)
        if not result.done():
            self._given_up = True
            self._warn(f"does not answer for {self._seconds:.0f} s; it is given up")
            return None
        error = result.exception()
        if error is not None:
            self._warn(f"failed ({type(error).__name__}: {error})")
            return None
        return result.result()

    @property
    def _label(self) -> str:
        return type(self._logger).__name__

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._label} {what}; the training goes on, its tables are whole", stacklevel=4)


class _Guarded:
    """An object of a logger's: its methods are called as those of the logger are, its values are as they are."""

    def __init__(self, inner: Any, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner, self._call = inner, call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute
        return lambda *args, **kwargs: self._call(lambda: attribute(*args, **kwargs))


class _Thread:
    """A thread that does one task after the other; the process does not wait for it as it ends."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._started = False

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        """Puts a task at the end of the line."""
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
            except BaseException as error:  # a logger's SystemExit would end its thread, and not this training
                result.set_exception(error)
