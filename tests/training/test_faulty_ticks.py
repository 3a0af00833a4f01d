"""A fault in a tick leaves records with a note, and affects neither the training nor the ticks after it."""

import errno
import logging
import math
import shutil
import signal
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import train
from dissimilarity.lightning import DissimilarityTracker, StitchingTracker
from dissimilarity.measures.cka import CKA
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.side import Side
from dissimilarity.tables.curves import Curves, read_curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking import probe_reader, reference_store, tracker
from tests.helpers.processes import in_processes
from tests.helpers.tiny_run import in_process, kill_at, tiny, warm_up
from tests.training.test_run_folder import assert_same, curves, last, metrics

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run without stitches in which nothing fails."""
    folder = tmp_path_factory.mktemp("plain")
    assert in_process(tiny(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with stitches in which nothing fails."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_process(stitched(folder)) == 0
    return folder


def stitched(folder: Path) -> Any:
    every = {"callbacks.stitching.every": 4}
    return tiny(folder, callbacks="stitching", **every, **{"callbacks.stitching.sequences": 16})


def fail(owner: Any, name: str, error: Exception, step: int, callback: Any = DissimilarityTracker) -> None:
    """Make a function fail during the tick of a step, in this process."""
    tick, function, under_way = callback._tick, getattr(owner, name), [False]

    def ticking(self: Any, trainer: Any, module: Any) -> None:
        under_way[0] = trainer.global_step == step
        tick(self, trainer, module)
        under_way[0] = False

    def called(*args: Any, **kwargs: Any) -> Any:
        if under_way[0]:
            raise error
        return function(*args, **kwargs)

    callback._tick = ticking
    setattr(owner, name, called)


WHOLLY: dict[str, tuple[Any, str, Exception]] = {
    "capture, memory": (probe_reader, "read_chunks", MemoryError("no room for activations")),
    "capture, device": (probe_reader, "read_chunks", torch.OutOfMemoryError("no memory on the device")),
    "sums": (tracker, "compare_pair", torch.OutOfMemoryError("no memory for sums")),
    "measure": (CKA, "estimate_again", TypeError("a fault in a measure")),
}
FIRST, *_, LAST = WHOLLY


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(("first", "second"), [*pairwise(WHOLLY), (LAST, FIRST)])
def test_failed_ticks_have_notes_and_other_ticks_have_values(
    first: str, second: str, killed: bool, plain: Path, tmp_path: Path
) -> None:
    """Of two ticks per training, so that each fault comes both at the first tick and later."""
    link(tmp_path, plain)
    faults = {0: WHOLLY[first], 4: WHOLLY[second]}

    def before() -> None:
        logging.getLogger().addHandler(logging.FileHandler(tmp_path / "log.txt"))
        for step, fault in faults.items():
            fail(*fault, step)
        if killed:
            kill_at("on_train_batch_end", 7, signal.SIGKILL)

    assert in_process(tiny(tmp_path), before) == (-signal.SIGKILL if killed else 0)
    log = (tmp_path / "log.txt").read_text()
    assert not killed or in_process(tiny(tmp_path)) == 0
    for step, (_, _, error) in faults.items():
        assert log.count(f"{type(error).__name__}: {error}") == 1
        broken = [row for row in curves(tmp_path) if row["step"] == step and math.isnan(row["value"])]
        labels = {"init"} if step == 0 else {"init", "previous"}
        assert {row["reference"] for row in broken} == labels
        assert {row["note"] for row in broken} == {f"{type(error).__name__}: {error}"}
    without = [[row for row in curves(folder) if row["step"] not in faults] for folder in (tmp_path, plain)]
    assert_same(*without)
    assert_same(last(tmp_path)["state_dict"], last(plain)["state_dict"])


FULL_DISKS: dict[str, Callable[[], None]] = {
    "curves": partial(fail, Curves, "append", FULL, 0),
    "table of curves": partial(fail, Curves, "fold", FULL, 0),
    "every journal": partial(fail, Journal, "append", FULL, 4),
    "every journal, memory": partial(fail, Journal, "append", MemoryError(), 4),
    "activations of init": partial(fail, reference_store, "save_chunks", FULL, 0),
    "penalties": partial(fail, Journal, "append", FULL, 4, StitchingTracker),
}


@pytest.mark.parametrize(
    ("disk", "killed"),
    [
        *((disk, False) for disk in FULL_DISKS),
        *((disk, True) for disk in ("curves", "every journal", "activations of init", "penalties")),
    ],
)
def test_records_are_written_later_if_they_cannot_be_now(disk: str, killed: bool, whole: Path, tmp_path: Path) -> None:
    link(tmp_path, whole)

    def before() -> None:
        FULL_DISKS[disk]()
        if killed:
            kill_at("on_train_batch_end", 5, signal.SIGKILL)

    assert in_process(stitched(tmp_path), before) == (-signal.SIGKILL if killed else 0)
    assert not killed or in_process(stitched(tmp_path)) == 0
    assert_same(curves(tmp_path), curves(whole))
    assert metrics(tmp_path) == metrics(whole)
    for name in ("intrinsic.jsonl", "penalties.jsonl"):
        assert_same(rows_of(tmp_path, name), rows_of(whole, name))


@pytest.fixture(scope="module")
def stopped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `stopped`, a run that a signal ended after its sixth step."""
    folder = tmp_path_factory.mktemp("stopped")
    link(folder, whole)
    assert in_process(stitched(folder), lambda: kill_at("on_train_batch_end", 6, signal.SIGTERM)) == 143
    shutil.move(folder / "runs" / "tiny", folder / "stopped")
    return folder


@pytest.mark.parametrize("lost", ["init-000", "previous-4-000", "weights-init", "weights-previous-4"])
@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_lost_files_of_earlier_states_are_replaced_by_checkpoints(
    lost: str, damage: str, whole: Path, stopped: Path
) -> None:
    shutil.rmtree(stopped / "runs" / "tiny", ignore_errors=True)
    run = Path(shutil.copytree(stopped / "stopped", stopped / "runs" / "tiny"))
    file = run / "references" / f"{lost}.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    if damage == "gone":
        file.unlink()
    assert in_process(stitched(stopped)) == 0
    assert_same(curves(stopped), curves(whole))
    assert_same(rows_of(stopped, "penalties.jsonl"), rows_of(whole, "penalties.jsonl"))


def test_without_a_file_and_a_checkpoint_the_records_say_so(whole: Path, tmp_path: Path) -> None:
    link(tmp_path, whole)
    assert in_process(stitched(tmp_path), lambda: kill_at("on_train_batch_end", 5)) == -signal.SIGKILL
    run = tmp_path / "runs" / "tiny"
    for file in (run / "references" / "init-000.safetensors", run / "checkpoints" / "step_0000000.ckpt"):
        file.unlink()
    assert in_process(stitched(tmp_path)) == 0
    late = [row for row in curves(tmp_path) if row["step"] > 4]
    notes = {row["note"] for row in late if row["reference"] == "init"}
    assert len(notes) == 1 and "the model at step 0 is gone" in notes.pop()
    expected = [row for row in curves(whole) if row["step"] > 4 and row["reference"] == "previous"]
    assert_same([row for row in late if row["reference"] == "previous"], expected)


IN_ONE_PROCESS: dict[int, tuple[int, Any, str, Exception]] = {
    0: (1, CKA, "estimate_again", RuntimeError("a fault in estimate_again")),
    1: (1, probe_reader, "read_chunks", MemoryError("a fault in read_chunks")),
    2: (0, Side, "add", TypeError("a fault in add")),
    4: (1, Cross, "add", OSError("a fault in add")),
    8: (0, Curves, "append", OSError("a fault in append")),
}
"""The process and the fault in it, by step."""


@pytest.mark.slow
def test_a_fault_in_one_process_is_a_note_of_both_and_no_deadlock(tmp_path: Path) -> None:
    def faulty() -> None:
        for step, (rank, owner, name, error) in IN_ONE_PROCESS.items():
            if dist.get_rank() == rank:
                fail(owner, name, error, step)
        train.train(tiny(tmp_path, trainer="ddp", trainer__devices=2))

    warm_up()
    in_processes(faulty, tmp_path / "processes")
    rows = read_curves(tmp_path / "runs" / "tiny").to_pylist()
    notes = {step: {row["note"] for row in rows if row["step"] == step} - {""} for step in (0, 1, 2, 4, 8, 11)}
    assert notes[0] and all("process 1: " in note and "a fault in estimate" in note for note in notes[0])
    assert notes[1] == {"RuntimeError: process 1: MemoryError: a fault in read_chunks"}
    assert notes[2] == {"TypeError: a fault in add"}
    assert notes[4] == {"RuntimeError: process 1: OSError: a fault in add"}
    assert notes[8] == notes[11] == set()
    assert {row["step"] for row in rows} == {0, 1, 2, 4, 8, 11}
    assert all(math.isfinite(row["value"]) for row in rows if not row["note"])


def link(folder: Path, whole: Path) -> None:
    for name in ("cache", "text.jsonl"):
        (folder / name).symlink_to(whole / name)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = Journal(folder / "runs" / "tiny" / name).read()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
