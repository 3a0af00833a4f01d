"""Batches: which rows of a split a step reads, for training and for validation, alone and among several processes."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

from data.blocks import blocks_of_step, rank_rows

Rows = Int64[np.ndarray, " rows"]


class Batches:
    """An iterable of batches for Lightning's loops.

    It is not a DataLoader: rows are copied out of memory in microseconds, so there is no work for worker processes, and
    Lightning has no sampler to replace.

    Args:
        cut: Returns the batch of the given rows of the split.
        rows_of: Returns the rows of a batch that this process reads, by the number of the batch in its epoch.
        start: Returns the number of the first batch; called whenever an epoch begins or resumes.
        stop: Number before which to end. It is also the length, which Lightning takes for that of the whole epoch and
            compares with the number of batches that a resumed run has already read.
    """

    def __init__(
        self, cut: Callable[[Rows], Any], rows_of: Callable[[int], Rows], start: Callable[[], int], stop: int
    ) -> None:
        self.cut = cut
        self.rows_of = rows_of
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        """Return the number of batches of the whole epoch, even if it is resumed."""
        return self.stop

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches start() ... stop - 1."""
        for number in range(self.start(), self.stop):
            yield self.cut(self.rows_of(number))

    def state_dict(self) -> dict:
        """Return nothing, since `start` follows from the trainer's step; Lightning calls this when it saves."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Ignore the state; see `state_dict`."""


def training_batches(cut: Callable[[Rows], Any], n_rows: int, batch_size: int, seed: int, trainer: Any) -> Batches:
    """Return the batches of the whole training, starting at the trainer's step; without a trainer, of one epoch.

    The rows of a batch depend on (seed, number of the batch) alone (data/blocks.py). Where the trainer limits the
    batches of an epoch (limit_train_batches, overfit_batches), it reads the first ones again and again.

    Args:
        cut: Returns the batch of the given rows.
        n_rows: Number of rows of the split.
        batch_size: Rows per batch, over all processes.
        seed: Seed of the order.
        trainer: The Lightning trainer, which knows steps and processes, or None.

    Raises:
        ValueError: If the trainer has no number of steps, or batch_size cannot be divided among its processes.
    """
    rank, world_size = _place(trainer)
    own_rows = rank_rows(batch_size, rank, world_size)
    stop = -(-n_rows // batch_size)
    if trainer:
        accumulated = trainer.accumulate_grad_batches
        if trainer.max_steps < 0:
            raise ValueError(
                f"expected trainer.max_steps >= 0, found {trainer.max_steps}: training is measured in "
                f"steps; one pass over this data is trainer.max_steps={-(-stop // accumulated)}"
            )
        stop = trainer.max_steps * accumulated

    def start() -> int:
        """Return how many batches of the trainer's current epoch have been read."""
        if not trainer:
            return 0
        limit = trainer.limit_train_batches
        epoch_batches = min(limit, stop) if isinstance(limit, int) else int(limit * stop)
        # the last step of an epoch uses the batches that are left
        epoch_steps = -(-epoch_batches // trainer.accumulate_grad_batches)
        return trainer.global_step % epoch_steps * trainer.accumulate_grad_batches

    return Batches(cut, lambda number: blocks_of_step(seed, number, batch_size, n_rows)[own_rows], start, stop)


def validation_batches(cut: Callable[[Rows], Any], n_rows: int, count: int, batch_size: int, trainer: Any) -> Batches:
    """Return `count` evenly spaced rows (all if there are fewer), always the same, in the order of the split.

    Several processes share them equally, so their number is rounded down to a multiple of the processes.

    Args:
        cut: Returns the batch of the given rows.
        n_rows: Number of rows of the split.
        count: Number of rows to evaluate.
        batch_size: Rows per batch, over all processes.
        trainer: The Lightning trainer, or None.

    Raises:
        ValueError: If batch_size cannot be divided among the processes.
    """
    rank, world_size = _place(trainer)
    rank_rows(batch_size, rank, world_size)
    count = max(1, min(count, n_rows) // world_size) * world_size
    rows = np.arange(count) * n_rows // count

    def rows_of(number: int) -> Rows:
        batch = rows[number * batch_size : (number + 1) * batch_size]
        return batch[rank_rows(len(batch), rank, world_size)]

    return Batches(cut, rows_of, lambda: 0, -(-count // batch_size))


def _place(trainer: Any) -> tuple[int, int]:
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
