"""The memory that work takes, in a process of its own.

`ru_maxrss` will not do: a new process begins with that of the process which started it, and it counts pages of mapped
files, which the system drops when it needs room.
"""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

EVERY = 0.002
"""Seconds between two looks."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""Lets glibc return large blocks when they are freed, of which it otherwise keeps up to a gigabyte, by chance."""


def printed_by(program: str, *arguments: object) -> list[int]:
    """Return the numbers that a program prints, in a process that keeps no freed memory."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env=os.environ | RETURNED,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return list(map(int, done.stdout.split()))


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
