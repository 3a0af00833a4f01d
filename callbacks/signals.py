"""Ctrl-C and SIGTERM, handled for a whole program: exit codes 130 and 143 wherever it is, and no half-done step.

A signal ends the program where it is, unless something asked to finish its step first (`defer`). The second signal of
its kind ends it in any case.

Python runs a handler between two of its own instructions, and a call into a library, such as the wait for other
processes that will never come, may not return. A thread therefore watches what the system reports of signals at once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = b"\nstopping after this step; press Ctrl-C again to stop immediately\n"
ENDED = b"\nstopped; run the same command again to finish\n"
PATIENCE = 5.0
"""Seconds after which a signal that nothing defers ends a program that is inside a library."""

_state: dict[str, Any] = {
    "received": 0,
    "deferred": False,
    "handled": 0,
    "raised": False,
    "watched": False,
    "kill": None,
}


class Stopped(SystemExit):
    """The end of the program by a signal, wherever it is; no Exception, so that nothing takes it for a fault."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        """Return the name of the signal."""
        return signal.Signals(self.signum).name


def take_over() -> dict[int, Any]:
    """Install the handlers, in the main thread only, and return those that were there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    _watch_arrivals()
    return {signum: signal.signal(signum, _handle) for signum in SIGNALS}


def give_back(previous: dict[int, Any]) -> None:
    """Install the handlers that `take_over` returned."""
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def defer(on: bool) -> None:
    """Set whether a signal waits for a call of `received` (at the end of a step) or ends the program where it is."""
    _state["deferred"] = on


def end_with_this(kill: Callable[[int], Any]) -> None:
    """Have `kill(signum)` called if a signal ends this program inside a library: other processes would wait for it."""
    _state["kill"] = kill


@contextmanager
def restored() -> Iterator[None]:
    """Raise `Stopped` again where a library, such as one that was being imported, made an error of its own of it."""
    try:
        yield
    except Exception as error:
        if _state["raised"]:
            raise Stopped(_state["received"]) from error
        raise


def received() -> int:
    """Return the number of the signal that arrived, or 0."""
    return _state["received"]


def forget() -> None:
    """Forget the signal, for a program that outlives the training it stopped."""
    _state["received"] = 0


def _handle(signum: int, frame: Any) -> None:
    _state["handled"] += 1
    signal.signal(signum, signal.SIG_DFL)
    if signum == _state["received"]:  # a library restored this handler
        os.kill(os.getpid(), signum)
    _state["received"] = signum
    if not _state["deferred"]:
        _state["raised"] = True
        raise Stopped(signum)
    with suppress(OSError):
        os.write(2, MESSAGE)  # not print, because the signal may have arrived in the middle of one


def _watch_arrivals() -> None:
    """Start the thread that is told of signals, unless a program such as a notebook already has one."""
    if _state["watched"]:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    if (other := signal.set_wakeup_fd(writer, warn_on_full_buffer=False)) != -1:
        signal.set_wakeup_fd(other)
        return
    _state["watched"] = True
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> None:
    """End the program at the second signal whose handler cannot run, or some time after the first."""
    arrived: dict[int, int] = {}
    while True:
        signum = os.read(reader, 1)[0]
        if signum not in SIGNALS or signal.getsignal(signum) is not _handle:
            continue
        if arrived.get(signum) == _state["handled"]:
            _end(signum)
        arrived[signum] = _state["handled"]
        timer = threading.Timer(PATIENCE, _end_if_stuck, (signum, _state["handled"]))
        timer.daemon = True
        timer.start()


def _end_if_stuck(signum: int, handled: int) -> None:
    if _state["handled"] == handled and not _state["deferred"]:
        _end(signum)


def _end(signum: int) -> None:
    with suppress(Exception):
        if _state["kill"] is not None:
            _state["kill"](signum)
    with suppress(OSError):
        os.write(2, ENDED)
    os._exit(128 + signum)


def _unwatched() -> None:
    """Reset a forked process: the watching thread stays in its parent, which its signals must not reach."""
    if _state["watched"]:
        signal.set_wakeup_fd(-1)
        _state.update(watched=False, kill=None)


os.register_at_fork(after_in_child=_unwatched)
