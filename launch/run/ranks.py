"""Which of the processes of one training this is, before there is a Trainer to ask."""

import os
import time
from pathlib import Path
from typing import Any

from launch.run.folder import read_json

WAIT_SECONDS = 1800.0


def is_first() -> bool:
    """Whether this process is the one that writes: rank 0, or the only one."""
    rank = next((os.environ[key] for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if key in os.environ), "0")
    return int(rank) == 0


def together() -> str:
    """A text that all processes of one start share, and those of another start do not; empty for a single process.

    Slurm and torchrun start all processes at once. Where Lightning starts the others, the first has written its files
    by then.
    """
    keys = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "MASTER_PORT")
    return " ".join(os.environ[key] for key in keys if key in os.environ)


def wait_for_first(path: Path) -> dict[str, Any]:
    """The content of the provenance.json that rank 0 of this start has written, as soon as it is there.

    Raises:
        TimeoutError: rank 0 has not written it within half an hour.
    """
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        starts = read_json(path).get("starts") or [{}]
        if starts[-1].get("together") in (together(), ""):
            return read_json(path)
        time.sleep(0.2)
    raise TimeoutError(f"{path}: the first process of this training has not written it")
