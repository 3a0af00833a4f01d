"""Signals that arrive inside a library, which never returns to Python or makes an error of its own of the stop."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUCK = """
import ctypes
import sys
import threading

from callbacks import signals

signals.PATIENCE = float(sys.argv[1])
signals.take_over()
signals.defer(sys.argv[2] == "deferred")
signals.end_with_this(lambda signum: print("others", signum, flush=True))
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
library.pthread_mutex_lock(mutex)
threading.Timer(0.2, print, ["ready"], {"flush": True}).start()
library.pthread_mutex_lock(mutex)  # it never returns, whatever arrives
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("patience", "state", "count"), [(0.01, "", 1), (60.0, "", 2), (0.01, "deferred", 2)])
def test_a_program_that_is_stuck_in_a_library_ends(signum: int, patience: float, state: str, count: int) -> None:
    command = [sys.executable, "-c", STUCK, str(patience), state]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for number in range(count):
        if number:  # a signal that waits for the step ends nothing by itself, and two at once count as one
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        os.kill(process.pid, signum)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signum
    assert out == f"others {int(signum)}\n" and "stopped; run the same command again" in err


SWALLOWED = """
import os

from callbacks import signals

signals.take_over()
with signals.restored():
    try:
        os.kill(os.getpid(), {signum})
        os.getpid()
    except BaseException:
        raise RecursionError("of a library that was being imported") from None
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_library_made_an_error_of_is_a_stop(signum: int) -> None:
    code = SWALLOWED.format(signum=int(signum))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert process.returncode == 128 + signum and process.stderr == ""


TRAINING = """
import sys
import time

from callbacks import signals

signals.take_over()
signals.defer(True)
print("ready", flush=True)
while not signals.received():
    time.sleep(0.01)
time.sleep(0.3)
print("saved", flush=True)
"""
STUDY = """
import sys

from callbacks import signals
from studies.common.trainings import exit_code

signals.take_over()
exit_code([sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_study_lets_the_training_that_it_started_save_its_step(send: Callable[[int, int], None]) -> None:
    command = [sys.executable, "-c", STUDY, TRAINING]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    send(process.pid, signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "saved\n"
    assert process.returncode == 128 + signal.SIGINT
