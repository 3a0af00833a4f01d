"""Batches cut out of packed tokens."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor


class Batches:
    """An iterable of Int64 (rows, n_ctx + 1) tensors for Lightning's loops.

    It is not a DataLoader: rows are copied out of a memory map in microseconds, so there is no work for worker
    processes, and Lightning has no sampler to replace.

    Args:
        tokens: the split's tokens.
        n_ctx: positions a sequence.
        blocks_of: which blocks this process reads at a step.
        start: first step to give.
        stop: step to end before. It is also the length, which Lightning reads as that of the whole training and
            compares with a count of batches that a resumed run takes over.
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " tokens"],
        n_ctx: int,
        blocks_of: Callable[[int], Int64[np.ndarray, " rows"]],
        start: int,
        stop: int,
    ) -> None:
        self.tokens = tokens
        self.n_ctx = n_ctx
        self.blocks_of = blocks_of
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        """Return the number of steps of the whole training, also when starting in the middle of it."""
        return self.stop

    def __iter__(self) -> Iterator[Int64[Tensor, "rows n_ctx_plus_1"]]:
        """Yield the batches of steps start ... stop - 1."""
        offsets = np.arange(self.n_ctx + 1)
        for step in range(self.start, self.stop):
            starts = self.blocks_of(step) * self.n_ctx
            yield torch.from_numpy(self.tokens[starts[:, None] + offsets].astype(np.int64))

    def state_dict(self) -> dict:
        """Return nothing: the trainer's step, from which `start` is set, says all. Lightning asks before it resumes."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take nothing up; see state_dict."""
