"""The rank of this process in a training, before there is a Trainer to ask."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.run.folder import read_json

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

WAIT_SECONDS = 1800.0


def is_first() -> bool:
    """Return whether this process is the one that writes files: rank 0, or the only one."""
    global_rank = next((os.environ[key] for key in ("RANK", "SLURM_PROCID") if key in os.environ), None)
    ranks = (
        [global_rank] if global_rank is not None else [os.environ.get(key, "0") for key in ("NODE_RANK", "LOCAL_RANK")]
    )
    return not any(map(int, ranks))


def waiting(trainer: "Trainer") -> str | None:
    """Return what to print before a training waits for other machines; None for a single machine."""
    place = getattr(trainer.strategy, "cluster_environment", None)
    others = trainer.num_nodes - 1
    if not others or place is None or "SLURM_JOB_ID" in os.environ:  # Slurm starts all of them
        return None
    address, port = place.main_address, place.main_port
    timeout = getattr(trainer.strategy, "_timeout", None)
    limit = "" if timeout is None else f", for {timeout.total_seconds() / 60:.0f} minutes at most"
    return (
        f"trainer.num_nodes={trainer.num_nodes}: waiting for {others} more machine{'s' if others > 1 else ''} at "
        f"{address}:{port}{limit}. Start the same command there, with NODE_RANK=1{'' if others == 1 else ',2,...'} "
        f"MASTER_ADDR=ADDRESS-OF-THIS-MACHINE MASTER_PORT={port} before it, and with MASTER_ADDR and MASTER_PORT here "
        "too; all of them need the same runs_dir. For this machine alone: trainer.num_nodes=1"
    )


def together() -> str:
    """Return a text that only the processes of this start share; empty for a single process.

    Slurm and torchrun start all processes at once. If Lightning starts the others, the first has already written its
    files.
    """
    keys = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "MASTER_PORT")
    return " ".join(os.environ[key] for key in keys if key in os.environ)


def wait_for_first(path: Path) -> dict[str, Any]:
    """Wait until rank 0 of this start has written provenance.json, and return its content.

    Raises:
        TimeoutError: If rank 0 has not written it within half an hour.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        starts = read_json(path).get("starts") or [{}]
        if starts[-1].get("together") in (together(), ""):
            return read_json(path)
        time.sleep(0.2)
    raise TimeoutError(f"{path}: the first process of this training has not written it")
