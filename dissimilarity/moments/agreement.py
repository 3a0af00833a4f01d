"""What the processes of one comparison tell each other before they continue, so that none waits for a failed one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


def gathered(value: Any, sync: bool) -> list[Any]:
    """Return a value of each process, in the order of their ranks; that of this one alone without ``sync``."""
    values = [value]
    if sync:
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


@contextmanager
def together(sync: bool) -> Iterator[None]:
    """Let a block that may fail in one process alone fail in all of them.

    Without this, the others would wait in the next collective for a process that never gets there. The block must end
    in all processes: collectives inside it need separate blocks around them.

    Args:
        sync: whether there are other processes; without them this does nothing.

    Raises:
        RuntimeError: the block failed in another process; names it and its error.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        fault = error
    texts = gathered(None if fault is None else f"{type(fault).__name__}: {fault}", sync)
    if fault is not None:
        raise fault
    for rank, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f"process {rank}: {text}")
