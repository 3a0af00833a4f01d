"""The memory that work takes, in a process of its own.

`ru_maxrss` will not do: a new process begins with that of the process which started it, and it counts pages of mapped
files, which the system drops when it needs room.
"""

import resource
import threading
from collections.abc import Callable
from pathlib import Path

EVERY = 0.002
"""Seconds between two looks."""


def peak_during(work: Callable[[], object]) -> int:
    """Return the largest number of MiB that are allocated while `work` runs (Linux)."""
    peak, ended = [_allocated()], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            peak[0] = max(peak[0], _allocated())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        ended.set()
        thread.join()
    return peak[0]


def _allocated() -> int:
    _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - of_files) * resource.getpagesize() >> 20
