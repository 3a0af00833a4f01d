"""The checkpoint from which a run continues."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.checkpoints import check_records
from models.references import steps_of

RESTORES = ("restore", "_restore", "resume")
"""Beginnings of the names of Lightning's functions that restore a checkpoint."""

log = logging.getLogger(__name__)


def checkpoint_of(folder: Path) -> Path | None:
    """Return the checkpoint from which the run in `folder` continues: the last or, if that is damaged, the previous.

    Returns:
        The path, or None if no step is lost by beginning at step 0.

    Raises:
        ValueError: If neither is intact; says what can be done with the remaining weights.
    """
    last, previous = (folder / "checkpoints" / name for name in ("last.ckpt", "second_last.ckpt"))
    problem = f"{last} is missing"
    for path in (last, previous):
        if path.exists():
            try:
                _check(path)
            except ValueError as error:
                problem = str(error)
            else:
                if path == previous:
                    log.warning("%s: continuing from the previous checkpoint, %s", problem, previous.name)
                return path
    steps = [step for step, path in sorted(steps_of(folder).items()) if step and _is_whole(path)]
    if not steps:
        return None
    raise ValueError(
        f"{problem}, and the previous checkpoint is not intact, so this run cannot continue: put a copy of it back, "
        f"begin another run from the weights of step {steps[-1]} with init_from=runs/{folder.name}@{steps[-1]} "
        "name=..., or start this one over with overwrite=true"
    )


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turn what Lightning raises while it restores a checkpoint, which anyone may have written, into a message.

    Args:
        path: The checkpoint from which the training in the block continues, if any.

    Raises:
        ValueError: If the checkpoint is not what a run writes; other exceptions of the block pass.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(
            frame.filename.endswith("checkpoint_connector.py") and frame.name.startswith(RESTORES) for frame in frames
        ):
            raise
        raise ValueError(
            f"cannot continue from {path}: it is not what a run writes ({type(error).__name__}: {error}); put a copy "
            "of it back, or start over with name=... or overwrite=true"
        ) from error


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            check_records(file)
    except Exception as error:  # zipfile raises several kinds of exceptions, depending on where the file is broken
        raise ValueError(f"{path} is damaged ({error or type(error).__name__})") from error


def _is_whole(path: Path) -> bool:
    try:
        _check(path)
    except ValueError:
        return False
    return True
