"""A lock that lets one process at a time use the folder of a run or of the results of a study."""

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

NAME = ".lock"
ATTEMPTS = 100
HELD = (errno.EWOULDBLOCK, errno.EACCES)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process; the system releases the lock however the process ends.

    Folders that it makes and that stay empty are removed again, so that a rejected command leaves none.

    Raises:
        ValueError: If another process holds it, which is named, or if it cannot be locked.
    """
    new_folders = [place for place in (folder, *folder.parents) if not place.exists()]
    with _open_locked(folder) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / NAME).unlink()
                for place in new_folders:
                    place.rmdir()


def _open_locked(folder: Path) -> TextIO:
    """Open and lock the lock file that exists by then, not one that its holder has just removed."""
    path = folder / NAME
    attempts = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _opened(path)
        except FileNotFoundError as error:  # a rejected command has just removed the folder, or it cannot be made
            attempts += 1
            if attempts == ATTEMPTS:
                raise ValueError(
                    f"{folder} cannot be made ({error.strerror}): choose another folder with runs_dir=... or "
                    "results_dir=..."
                ) from error
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except OSError as error:
            with file:
                raise _refusal(folder, file.read().strip(), error) from None
        file.close()


def _opened(path: Path) -> TextIO:
    """Open the lock file at its start; make it if there is none.

    Raises:
        ValueError: If another file has its place; that file stays as it is.
    """
    if path.is_symlink() or (path.exists() and not (path.is_file() and _is_ours(path))):
        raise ValueError(
            f"{path} is not a lock file of this project: choose another name with name=..., or move it away"
        )
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
    file.seek(0)
    return file


def _is_ours(path: Path) -> bool:
    head = path.read_bytes()[:100]
    return not head or re.match(rb"process \d+ on ", head) is not None


def _refusal(folder: Path, holder: str, error: OSError) -> Exception:
    if error.errno in HELD:
        return ValueError(
            f"{folder} is in use by {holder or 'another process'}: wait for it or stop it, or choose another name with "
            "name=..."
        )
    if error.errno in WITHOUT_LOCKS:
        return ValueError(
            f"{folder} cannot be locked ({error.strerror}), and two processes could overwrite each other's files: "
            "choose a folder on a disk that supports locks, with runs_dir=... or results_dir=..."
        )
    return error
