"""Ctrl-C and SIGTERM: exit codes 130 and 143 wherever the program is; the next start finishes the rest."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dissimilarity.tracking import probe_reader, tables
from dissimilarity.tracking.tracker import Tracker
from launch.run import record
from models import references
from tests.helpers.tiny_run import in_process, kill_at, tiny, tiny_overrides
from tests.training.test_run_folder import assert_same, curves, last, metrics

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def signal_in(owner: Any, name: str, signum: int) -> None:
    """Send this process a signal whenever it calls a function, before the function does anything."""
    before = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signum)
        return before(*args, **kwargs)

    setattr(owner, name, called)


MOMENTS: dict[str, Callable[[int], None]] = {
    "as a reference is loaded": lambda signum: signal_in(references, "load", signum),
    "as a reference is captured": lambda signum: signal_in(probe_reader, "read_chunks", signum),
    "in the first tick": lambda signum: signal_in(Tracker, "_measure", signum),
    "in a scheduled step": lambda signum: kill_at("on_train_batch_end", 4, signum),
    "in a step that is not scheduled": lambda signum: kill_at("on_train_batch_end", 6, signum),
    "in a validation": lambda signum: kill_at("on_validation_start", 3, signum),
    "in the last step": lambda signum: kill_at("on_train_batch_start", 10, signum),
    "in the last validation": lambda signum: signal_in_last_validation(signum),
    "as figures are drawn": lambda signum: signal_in(tables, "draw_run", signum),
    "as the summary is made": lambda signum: signal_in(record, "end", signum),
}


def signal_in_last_validation(signum: int) -> None:
    kill_at("on_validation_start", 11, signum)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run and of the model it is compared with."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_process(tiny(folder, name="other", trainer__max_steps=2, schedule__every=2)) == 0
    assert in_process(against(folder, folder)) == 0
    return folder


def against(folder: Path, whole: Path) -> Any:
    other = whole / "runs" / "other" / "checkpoints" / "step_0000002.ckpt"
    return tiny(folder, references=f"[init,previous,{other}]")


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs" / "tiny" / "checkpoints").iterdir())


@pytest.mark.parametrize(("moment", "signum"), [(moment, SIGNALS[number % 2]) for number, moment in enumerate(MOMENTS)])
def test_the_exit_code_names_the_signal_and_the_next_start_finishes_the_run(
    moment: str, signum: int, whole: Path, tmp_path: Path
) -> None:
    for name in ("cache", "text.jsonl"):
        (tmp_path / name).symlink_to(whole / name)
    cfg = against(tmp_path, whole)
    assert in_process(cfg, lambda: MOMENTS[moment](signum)) == 128 + signum
    assert in_process(cfg) == 0
    assert steps(tmp_path) == steps(whole)
    assert metrics(tmp_path) == metrics(whole)
    assert_same(curves(tmp_path), curves(whole))
    assert_same(last(tmp_path)["state_dict"], last(whole)["state_dict"])


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_second_signal_ends_the_program_where_it_is(
    signum: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        for hook in ("on_train_batch_start", "on_train_batch_end"):
            kill_at(hook, 6, signum)

    assert in_process(tiny(tmp_path), twice) == -signum  # which a shell calls 128 + signum
    assert "stopping after this step; press Ctrl-C again to stop immediately" in capfd.readouterr().err


def test_a_checkpoint_that_a_signal_lost_is_saved_later(whole: Path, tmp_path: Path) -> None:
    """The weights of last.ckpt are those of that step."""
    cfg = tiny(tmp_path)
    assert in_process(cfg, lambda: kill_at("on_train_batch_end", 4, signal.SIGTERM)) == 143
    (tmp_path / "runs" / "tiny" / "checkpoints" / "step_0000004.ckpt").unlink()
    assert in_process(cfg) == 0
    assert steps(tmp_path) == steps(whole)


COMMANDS = {
    "train.py": ["trainer.max_steps=1"],
    "analyze.py": ["study=compare", "models=[runs/a,runs/b]"],
    "sweep": ["-m", "trainer.max_steps=1", "seed=0,1"],
}
AT_IMPORT = """
import os, runpy, signal, sys

class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {signum})

sys.meta_path.insert(0, Signals())
sys.argv = [{script!r}, *{arguments!r}]
sys.path.insert(0, {root!r})
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("module", "signum"), [("hydra", signal.SIGINT), ("torch", signal.SIGTERM)])
def test_a_signal_while_modules_are_imported(command: str, module: str, signum: int, tmp_path: Path) -> None:
    script = str(ROOT / ("analyze.py" if command == "analyze.py" else "train.py"))
    arguments = COMMANDS[command]
    if command != "analyze.py":
        overrides = tiny_overrides(tmp_path)
        arguments = [
            *arguments,
            *(entry for entry in overrides if not entry.startswith(("trainer.max_steps", "name="))),
        ]
        arguments.append(f"hydra.sweep.dir={tmp_path}/sweep")
    code = AT_IMPORT.format(module=module, signum=int(signum), script=script, arguments=arguments, root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 128 + signum, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep" / "1").exists()
