"""Which of the processes of one training this is, before there is a Trainer to ask."""

import os


def is_first() -> bool:
    """Whether this process is the one that writes: rank 0, or the only one."""
    rank = next((os.environ[key] for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if key in os.environ), "0")
    return int(rank) == 0
