"""A word on the terminal while a command imports its libraries."""

import os
import sys
from contextlib import suppress

WORD = "starting ..."


def show() -> None:
    """Show it, if there is a terminal that this process does not share with the others of a training."""
    _write(f"{WORD}\r")


def clear() -> None:
    """Take it back."""
    _write(" " * len(WORD) + "\r")


def _write(text: str) -> None:
    with suppress(OSError):
        if "LOCAL_RANK" not in os.environ and sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(text)
            sys.stderr.flush()
