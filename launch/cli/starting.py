"""What a command does while it imports its libraries: a word on the terminal, and no search for garbage."""

import gc
import os
import sys
from contextlib import suppress

WORD = "starting ..."


def begin() -> None:
    """Show the word, if there is a terminal that this process does not share with the others of a training.

    Until ``imported``, no garbage is collected: imports make many objects and leave none, and looking takes an eighth
    of their time.
    """
    gc.disable()
    _write(f"{WORD}\r")


def imported() -> None:
    """Collect garbage again, if it was not, but never among what the imports have made."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def clear() -> None:
    """Take the word back."""
    _write(" " * len(WORD) + "\r")


def _write(text: str) -> None:
    with suppress(OSError):
        if "LOCAL_RANK" not in os.environ and sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(text)
            sys.stderr.flush()
