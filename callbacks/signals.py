"""Ctrl-C and SIGTERM, taken over for a whole program: exit codes 130 and 143 wherever it is, and no half-done step.

A signal ends the program where it is, unless something asked to finish its step first (`defer`). The second one of its
kind ends it in any case, also where Python code does not get to run.
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
    """Raised by a signal wherever the program is; not an Exception, so that nothing takes it for a fault."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


def take_over() -> dict[int, Any]:
    """Install the handlers, where this is the main thread, and return those that were there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, _handle) for signum in SIGNALS}


def give_back(previous: dict[int, Any]) -> None:
    """Install the handlers that `take_over` returned."""
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def defer(on: bool) -> None:
    """Set whether a signal waits until `received` is asked (at the end of a step) or ends the program where it is."""
    _state["deferred"] = on


def received() -> int:
    """Return the number of the signal that has come, or 0."""
    return _state["received"]


def forget() -> None:
    """Begin anew, for a program that outlives the training that was stopped."""
    _state["received"] = 0


def _handle(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_DFL)
    if signum == _state["received"]:  # a library had put this handler back
        os.kill(os.getpid(), signum)
    _state["received"] = signum
    if not _state["deferred"]:
        raise Stopped(signum)
    with suppress(OSError):
        os.write(2, MESSAGE)  # not print: the signal may have come in the middle of one
