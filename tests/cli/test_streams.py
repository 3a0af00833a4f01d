"""Broken output does not end a command or change its exit code."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys, subprocess, warnings, logging
sys.path.insert(0, {root!r})
from launch.cli.streams import make_unbreakable
make_unbreakable()
make_unbreakable()
from rich.console import Console
for _ in range(3):
    print("x" * 70000, flush=True)
    print("±", file=sys.stderr)
    Console().print("rich")
    sys.stdout.buffer.write(b"bytes")
    sys.stdout.flush()
warnings.warn("warned")
logging.getLogger("here").warning("logged")
subprocess.run([sys.executable, "-c", "print('child')"], check=True)
os.write(1, b"C code")
print("left in the buffer", end="")
open({done!r}, "w").write("done")
sys.exit(7)
"""

REDIRECTIONS = {
    "closed pipe": "{python} | head -c 1",
    "pipe without a reader": "{python} 2>&1 | true",
    "full disk": "{python} > /dev/full",
    "both full": "{python} > /dev/full 2> /dev/full",
    "full disk under the errors": "{python} 2> /dev/full > /dev/null",
    "closed": "{python} >&- 2>&-",
    "closed errors": "{python} 2>&- | cat > /dev/null",
    "whole": "{python} > /dev/null",
}


@pytest.mark.parametrize("unbuffered", ["", "-u"])
@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_the_program_runs_to_its_end(redirection: str, unbuffered: str, tmp_path: Path) -> None:
    done = tmp_path / "done"
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT), done=str(done)))
    python = f"PYTHONIOENCODING=ascii {sys.executable} {unbuffered} {tmp_path}/program.py"
    command = REDIRECTIONS[redirection].format(python=python) + "; exit ${PIPESTATUS[0]}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.exists(), ended.stderr
    assert ended.returncode == 7
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("program", ["train.py", "analyze.py"])
def test_a_terminal_has_a_word_at_once(program: str) -> None:
    terminal, inside = pty.openpty()
    command = [sys.executable, str(ROOT / program), "--no-such-flag"]
    alone = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    assert subprocess.run(command, stdout=inside, stderr=inside, env=alone, check=False).returncode == 2
    text = os.read(terminal, 10_000).decode()
    os.close(inside)
    os.close(terminal)
    assert text.startswith(f"starting ...\r{' ' * len('starting ...')}\r--no-such-flag")
    assert "starting" not in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_the_stream_of_a_test_or_a_notebook_stays(capsys: pytest.CaptureFixture[str]) -> None:
    from launch.cli.streams import make_unbreakable

    before = sys.stdout
    make_unbreakable()
    assert sys.stdout is before
