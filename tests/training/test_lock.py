"""One process at a time in a folder, and a lock that harms no other file."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analyze import analyze
from launch.cli.compose import compose
from launch.run.lock import locked
from tests.helpers.tiny_run import FORK, tiny
from train import train


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Let another process hold the folder, and yield its id."""
    inside, done = FORK.Event(), FORK.Event()

    def hold() -> None:
        with locked(folder):
            inside.set()
            done.wait(30)

    holder = FORK.Process(target=hold)
    holder.start()
    assert inside.wait(30) and holder.pid is not None
    yield holder.pid
    done.set()
    holder.join()


def test_a_folder_in_use_is_rejected_with_its_owner(tmp_path: Path) -> None:
    with held(tmp_path / "a") as pid:
        with pytest.raises(ValueError, match=f"in use by process {pid} on .*name="), locked(tmp_path / "a"):
            pass
        with locked(tmp_path / "b"):
            pass
    with locked(tmp_path / "a"):
        pass


def test_a_second_training_and_a_second_study_stop_before_they_write(tmp_path: Path) -> None:
    cfg = tiny(tmp_path)
    with held(tmp_path / "runs" / "tiny") as pid:
        with pytest.raises(ValueError, match=f"runs/tiny is in use by process {pid}"):
            train(cfg)
        assert os.listdir(tmp_path / "runs" / "tiny") == [".lock"]
    study = compose(
        ["models=[runs/a,runs/b]", f"results_dir={tmp_path}/results", f"runs_dir={tmp_path}/runs"], "analyze"
    )
    with held(tmp_path / "results" / "compare") as pid:
        with pytest.raises(ValueError, match=f"results/compare is in use by process {pid}"):
            analyze(study)
        assert os.listdir(tmp_path / "results" / "compare") == [".lock"]


def test_nothing_is_left_of_a_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "new" / "deep"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "new" / "deep"):
        (tmp_path / "new" / "deep" / "kept").touch()
    assert os.listdir(tmp_path / "new" / "deep") == ["kept"]


def test_a_lock_that_a_kill_left_is_free(tmp_path: Path) -> None:
    for left in ("", "process 1 on there since 2020-01-01 00:00:00\n"):
        (tmp_path / ".lock").write_text(left)
        with locked(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_the_lock_of_another_process_stays_unchanged(kind: str, tmp_path: Path) -> None:
    lock, target = tmp_path / ".lock", tmp_path / "precious"
    target.write_text("poetry 1.8\n")
    {"file": lambda: lock.write_text("poetry 1.8\n"), "folder": lock.mkdir, "link": lambda: lock.symlink_to(target)}[
        kind
    ]()
    with pytest.raises(ValueError, match=".lock is not a lock file of this project"), locked(tmp_path):
        pass
    assert target.read_text() == "poetry 1.8\n" and lock.is_dir() == (kind == "folder")
    assert kind != "file" or lock.read_text() == "poetry 1.8\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_gets_a_message(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, flags: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match="cannot be locked .*runs_dir=... or results_dir=..."), locked(tmp_path / "a"):
        pass


def test_a_lock_released_while_another_process_waits_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the second process has opened is removed before it gets the lock: it locks the new file."""
    flock, first = fcntl.flock, [True]

    def slow(file: object, flags: int) -> None:
        if first.pop() if first else False:
            (tmp_path / ".lock").unlink()
        flock(file, flags)  # pyright: ignore

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="in use by"), locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_gives_a_message_without_an_endless_wait() -> None:
    """The kernel says of a new folder in /proc that it does not exist, as if another command had just removed it."""
    with pytest.raises(ValueError, match="/proc/nosuch/run cannot be made"), locked(Path("/proc/nosuch/run")):
        pass
