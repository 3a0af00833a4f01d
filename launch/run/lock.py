"""One process at a time in the folder of a run or of a study's results."""

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
HELD = (errno.EWOULDBLOCK, errno.EACCES)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; the system lets go of it however the process ends.

    Folders that it makes and that nothing is put into go again, so that a command that is refused leaves none.

    Raises:
        ValueError: another process holds it, says which; or it cannot be locked.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with _held(folder) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / NAME).unlink()
                for place in made:
                    place.rmdir()


def _held(folder: Path) -> TextIO:
    """The lock's file, opened and locked; the one that is there by then, not one that its holder has just removed."""
    path = folder / NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _opened(path)
        except FileNotFoundError:  # a command that was refused has just taken the folder away
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
    """The lock's file, read from its start; made where there is none.

    Raises:
        ValueError: what is there is no lock of ours, and stays as it is.
    """
    if path.is_symlink() or (path.exists() and not (path.is_file() and _is_ours(path))):
        raise ValueError(f"{path} is not a lock of this project's: choose another name with name=..., or move it away")
    file = open(path, "a+", encoding="utf-8")
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
            f"{folder} cannot be locked ({error.strerror}), and two processes in it would write over each other: give "
            "a folder on a disk with locks, with runs_dir=... or results_dir=..."
        )
    return error
