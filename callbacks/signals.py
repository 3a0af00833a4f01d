"""Ctrl-C and SIGTERM, handled for a whole program: exit codes 130 and 143 wherever it is, and no half-done step.

A signal ends the program where it is, unless something asked to finish its step first (`defer`). The second signal of
its kind ends it in any case, even where no Python code can run.
"""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = b"\nstopping after this step; press Ctrl-C again to stop immediately\n"

_state = {"received": 0, "deferred": False}


class Stopped(SystemExit):
    """The end of the program by a signal, wherever it is; no Exception, so that nothing takes it for a fault."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


def take_over() -> dict[int, Any]:
    """Install the handlers, in the main thread only, and return those that were there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, _handle) for signum in SIGNALS}


def give_back(previous: dict[int, Any]) -> None:
    """Install the handlers that `take_over` returned."""
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def defer(on: bool) -> None:
    """Set whether a signal waits for a call of `received` (at the end of a step) or ends the program where it is."""
    _state["deferred"] = on


def received() -> int:
    """Return the number of the signal that arrived, or 0."""
    return _state["received"]


def forget() -> None:
    """Forget the signal, for a program that outlives the training it stopped."""
    _state["received"] = 0


def _handle(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_DFL)
    if signum == _state["received"]:  # a library restored this handler
        os.kill(os.getpid(), signum)
    _state["received"] = signum
    if not _state["deferred"]:
        raise Stopped(signum)
    with suppress(OSError):
        os.write(2, MESSAGE)  # not print, because the signal may have arrived in the middle of one
