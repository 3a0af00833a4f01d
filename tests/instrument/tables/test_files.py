"""Files put in place in one step: whole whoever writes beside, and nothing left by who was killed."""

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from dissimilarity.tables.files import replacing, sha256_of
from dissimilarity.tables.seal import read_tensors, write_tensors

FORK = multiprocessing.get_context("fork")


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table"]


def test_an_error_leaves_no_part_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "packed") as part:
        part.mkdir()
        (part / "a").write_text("a")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "table"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            assert first != second and first.read_text() == "first"
            second.write_text("second")
        assert path.read_text() == "second" and first.read_text() == "first"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["table"]


def _die_writing(path: Path, folder: bool) -> None:
    with replacing(path) as part:
        (part / "a" if folder else part).parent.mkdir(exist_ok=True)
        (part / "a" if folder else part).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("folder", [False, True])
def test_files_left_by_a_killed_process_are_removed_by_the_next_write(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "table"
    for _ in range(2):
        process = FORK.Process(target=_die_writing, args=(path, folder))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (left,) = os.listdir(tmp_path)
        assert left.startswith(".table.") and left.endswith(".part")
    with replacing(path) as part:
        part.write_text("whole")
    assert os.listdir(tmp_path) == ["table"]


def test_parts_of_other_files_machines_and_living_processes_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "table") as part:
        part.touch()
        others = [part.with_name(part.name.replace("table", "table.csv")), tmp_path / ".table.elsewhere.1.0.part"]
        for other in others:
            other.touch()
        with replacing(tmp_path / "table") as second:
            second.touch()
        assert part.exists()
    assert all(other.exists() for other in others)


def test_the_hash_of_files_is_that_of_their_bytes_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"a" * 100_000)
    second.write_bytes(b"b")
    assert sha256_of(first, second) == hashlib.sha256(b"a" * 100_000 + b"b").hexdigest()
    with first.open("rb") as file:
        file.seek(99_999)
        assert sha256_of(file) == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize("name", ["x", "a longer name moves where the data begin"])
def test_tensors_begin_in_memory_where_torch_puts_them(name: str, tmp_path: Path) -> None:
    """Some processors round a product by the alignment of its factors, so a run that continues would differ."""
    tensors = {name: torch.arange(3.0), "y": torch.arange(5.0)}
    write_tensors(tensors, tmp_path / "file")
    for key, tensor in read_tensors(tmp_path / "file").items():
        assert torch.equal(tensor, tensors[key]) and tensor.data_ptr() % 64 == 0
