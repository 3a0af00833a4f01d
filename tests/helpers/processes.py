"""Two processes of a training on this machine, connected by gloo, that a deadlock does not outlive."""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FORK = multiprocessing.get_context("fork")
LIMIT = 120.0
"""Seconds after which processes count as waiting for each other."""


def in_processes(work: Callable[..., Any], folder: Path, *args: Any, processes: int = 2, **options: Any) -> list[Any]:
    """Return what `work(*args, **options)`, which torch.save can write, is in each of several connected processes."""
    folder.mkdir(exist_ok=True)
    started = [
        FORK.Process(target=_run, args=(rank, processes, folder, partial(work, *args, **options)), daemon=True)
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    end = time.monotonic() + LIMIT
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * processes, f"exit codes {codes}; None waited for another process"
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(processes)]


def _run(rank: int, processes: int, folder: Path, work: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in (ranks | address).items()})  # as torchrun does
    store = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    torch.save(work(), folder / f"result-{rank}.pt")
    dist.destroy_process_group()
