"""The order of training: the blocks that a step reads, as a pure function of seed and step.

A split of N tokens has (N - 1) // n_ctx blocks. Block i consists of tokens i * n_ctx to i * n_ctx + n_ctx inclusive:
n_ctx inputs and, shifted by one, n_ctx targets, so that every token but the first is a target once per epoch.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 8
# Steps computed together, to share the cost of a call to numpy: a millisecond for eight numbers.
WINDOW = 256


def count_blocks(n_tokens: int, n_ctx: int) -> int:
    """Return the number of whole blocks in `n_tokens` tokens.

    Examples:
        >>> count_blocks(257, 128)
        2
    """
    return max(0, (n_tokens - 1) // n_ctx)


def blocks_of_step(seed: int, step: int, batch_size: int, n_blocks: int) -> Int64[np.ndarray, " batch_size"]:
    """Return the numbers of the blocks in the global batch of `step` (from 0).

    Block number p = step * batch_size + row of the training belongs to epoch p // n_blocks, and each epoch is a
    permutation of all blocks drawn from (seed, epoch). Every step costs the same, so a resumed run replays nothing, and
    the order depends on no library's random generator.
    """
    return _window(seed, step // WINDOW, batch_size, n_blocks)[step % WINDOW]


@lru_cache(maxsize=4)
def _window(seed: int, window: int, batch_size: int, n_blocks: int) -> Int64[np.ndarray, "window batch_size"]:
    samples = WINDOW * batch_size
    positions = np.arange(window * samples, (window + 1) * samples, dtype=np.int64)
    blocks = permute(positions % n_blocks, n_blocks, seed, positions // n_blocks).reshape(WINDOW, batch_size)
    blocks.flags.writeable = False
    return blocks


def rank_rows(batch_size: int, rank: int, world_size: int) -> slice:
    """Return the rows of the global batch that belong to `rank`: one of equal consecutive parts.

    Raises:
        ValueError: If the batch cannot be divided evenly.

    Examples:
        >>> rank_rows(8, rank=1, world_size=2)
        slice(4, 8, None)
    """
    if batch_size % world_size:
        raise ValueError(
            f"expected data.batch_size (sequences over all processes) to be a multiple of the {world_size} processes, "
            f"found {batch_size}: type data.batch_size={-(-batch_size // world_size) * world_size}"
        )
    rows = batch_size // world_size
    return slice(rank * rows, (rank + 1) * rows)


def permute(
    index: Int64[np.ndarray, " k"], size: int, seed: int, epoch: Int64[np.ndarray, " k"]
) -> Int64[np.ndarray, " k"]:
    """Map each index in [0, size) through the pseudorandom permutation of [0, size) given by (seed, epoch).

    A Feistel network (Luby and Rackoff 1988) on the smallest even number of bits that holds `size`, repeated until
    the value is in range (Black and Rogaway 2002; fewer than four times on average). It needs no table, so it costs the
    same for a thousand blocks as for a billion.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    base = _mix(_mix(np.full(index.shape, seed % 2**64, dtype=np.uint64)) + epoch.astype(np.uint64))
    keys = [_mix(base + np.uint64(number)) for number in range(ROUNDS)]

    values = index.astype(np.uint64)
    outside = np.ones(index.shape, dtype=bool)
    while outside.any():
        left, right = values >> half_bits, values & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        values = np.where(outside, (left << half_bits) | right, values)
        outside = values >= size
    return values.astype(np.int64)


def _mix(values: UInt64[np.ndarray, " k"]) -> UInt64[np.ndarray, " k"]:
    """Scramble 64-bit numbers: the output function of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
