"""What the processes of one comparison tell each other before they continue, so that none waits for a failed one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.distributed as dist


class _LeftBlock(BaseException):
    """Another process left a block with a fault; no Exception, so that nothing inside the block catches it.

    Attributes:
        depth: how many blocks are around the fault, that one included.
        fault: the process and its fault.
    """

    def __init__(self, depth: int, fault: str) -> None:
        super().__init__(fault)
        self.depth, self.fault = depth, fault


_depth: ContextVar[int] = ContextVar("depth", default=0)
"""How many blocks this process is in."""


def gathered(value: Any, sync: bool) -> list[Any]:
    """Return a value of each process, in the order of their ranks; that of this one alone without ``sync``."""
    return _exchanged(value) if sync else [value]


@contextmanager
def together(sync: bool) -> Iterator[None]:
    """Let a block that may fail in one process alone fail in all of them.

    Without this, the others would wait in the next collective for a process that never gets there. Blocks may contain
    others and ``gathered``: a process that waits there learns of the fault and leaves the same block. Other collectives
    cannot tell it, so they come right after an agreement.

    Args:
        sync: whether there are other processes; without them this does nothing.

    Raises:
        RuntimeError: the block failed in another process; names it and its error.
    """
    if not sync:
        yield
        return
    depth = _depth.get() + 1
    token = _depth.set(depth)
    fault: Exception | None = None
    try:
        try:
            yield
        except Exception as error:
            fault = error
        _exchanged(None, "" if fault is None else f"{type(fault).__name__}: {fault}")
    except _LeftBlock as left:
        if left.depth < depth:
            raise
        fault = fault or RuntimeError(left.fault)
    finally:
        _depth.reset(token)
    if fault is not None:
        raise fault


def _exchanged(value: Any, fault: str = "") -> list[Any]:
    """Return a value of each process, unless one of them has a fault.

    Raises:
        _LeftBlock: one left a block; of several, that of the outermost one.
    """
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, (value, fault, _depth.get()))
    faults = [(depth, f"process {rank}: {text}") for rank, (_, text, depth) in enumerate(answers) if text]
    if faults:
        raise _LeftBlock(*min(faults, key=lambda item: item[0]))
    return [answer for answer, _, _ in answers]
