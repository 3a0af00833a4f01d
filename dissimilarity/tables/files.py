"""Atomic writes of files and folders, and their hashes."""

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
    """Yield a temporary path in the same folder; on success it replaces `path` atomically.

    A file may be written there or, if nothing is at `path` yet, a folder. Readers see the old one or the new one, never
    a part. After an error the temporary one is removed. Its name is unique, so several processes may write `path` at
    once. Temporary files that killed processes left beside `path` are removed too.
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
    """Make new and renamed entries of a folder survive a power failure, if the system can sync folders."""
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
    """Return the sha256 of the concatenated bytes of files; an open file is read from its current position."""
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
    """Remove temporary files of `path` whose process has ended; those of other machines are left alone."""
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
