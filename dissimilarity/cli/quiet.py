"""Keep bars, notices and warnings of libraries out of the terminal, and show our own warnings as one line each."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Variables that libraries read when they are imported; what the user has set stays."""


@contextmanager
def quiet(is_verbose: bool = False) -> Iterator[None]:
    """Silence the libraries while a command runs; begin before they are imported.

    Args:
        is_verbose: leave everything as it is.
    """
    if is_verbose:
        yield
        return
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"dissimilarity\.")
            warnings.showwarning = _in_one_line
            yield
    finally:
        logging.disable(level)


def _in_one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"dissimilarity: {message}", file=sys.stderr)
