"""The checkpoint from which a run goes on."""

import logging
from pathlib import Path

from models.checkpoints import check_records
from models.references import steps_of

log = logging.getLogger(__name__)


def checkpoint_of(folder: Path) -> Path | None:
    """The checkpoint from which the run in `folder` goes on: the last or, if that is damaged or gone, the one before.

    Returns:
        None where no step is lost by beginning at step 0.

    Raises:
        ValueError: neither is whole; says what can be done with the weights that are there.
    """
    last, before = (folder / "checkpoints" / name for name in ("last.ckpt", "second_last.ckpt"))
    what = f"{last} is gone"
    for path in (last, before):
        if path.exists():
            try:
                _check(path)
            except ValueError as error:
                what = str(error)
            else:
                if path == before:
                    log.warning("%s: going on from the checkpoint before it, %s", what, before.name)
                return path
    steps = [step for step, path in sorted(steps_of(folder).items()) if step and _is_whole(path)]
    if not steps:
        return None
    raise ValueError(
        f"{what}, and no whole checkpoint before it is there, so this run cannot go on: put a copy of it back, begin "
        f"another run from the weights of step {steps[-1]} with init_from=runs/{folder.name}@{steps[-1]} name=..., or "
        "begin this one anew with overwrite=true"
    )


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            check_records(file)
    except Exception as error:  # zipfile raises several kinds, by where the file is broken
        raise ValueError(f"{path} is damaged ({error or type(error).__name__})") from error


def _is_whole(path: Path) -> bool:
    try:
        _check(path)
    except ValueError:
        return False
    return True
