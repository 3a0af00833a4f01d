"""Files and folders that are whole at any moment, and the hashes by which they are known."""

import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path in the same folder to write to; on success it takes the place of `path` in one step.

    What is written may be a file or, where none stands at `path` yet, a folder. Readers see the old one or the new one,
    never a part. On an error it is removed. The name is like no other process's, so two that write at once each put a
    whole file in place; what a killed process left of the same `path`, the next one removes.
    """
    _remove_leftovers(path)
    part = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    except BaseException:
        _remove(part)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of a folder survive a power cut, where the system lets folders be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def sha256_of(*files: Path | BufferedReader) -> str:
    """Return the sha256 of the bytes of files, one after the other; an open file is read from where it stands."""
    state = hashlib.sha256()
    for file in files:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: state)
        else:
            hashlib.file_digest(file, lambda: state)
    return state.hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
        sync_folder(path)
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove_leftovers(path: Path) -> None:
    """Remove parts of `path` whose process is gone. Those of other machines that share the disk are not judged."""
    prefix = f".{path.name}.{_machine()}."
    for entry in os.scandir(path.parent):
        if entry.name.startswith(prefix) and entry.name.endswith(".part"):
            pid = entry.name.removeprefix(prefix).partition(".")[0]
            if pid.isdecimal() and not _is_running(int(pid)):
                _remove(Path(entry.path))


def _machine() -> str:
    """Return the name of this machine as part of a file name."""
    return "".join(letter for letter in platform.node() if letter.isalnum()) or "machine"


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl+C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
