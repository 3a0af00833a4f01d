"""The samples that sample measures read: bounded in number, seeded, the same on every process."""

import torch
from jaxtyping import Int
from torch import Tensor


def priorities(start: int, count: int, seed: int) -> Int[Tensor, " count"]:
    """Return a pseudo-random rank for each place ``start .. start + count - 1`` of a stream.

    Keeping the samples of lowest rank is a uniform draw without replacement that does not depend on how the stream was
    cut into batches. The mixing is the 32-bit integer hash lowbias32 (Wellons 2018).
    """
    places = torch.arange(start, start + count, dtype=torch.int64)
    z = places + 0x9E3779B9 * (seed + 1)
    for bits, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        z = z & 0xFFFFFFFF
        z = (z ^ (z >> bits)) * factor
    return (z & 0xFFFFFFFF) << 31 | places & 0x7FFFFFFF


def draw(count: int, limit: int, seed: int) -> Int[Tensor, " drawn"]:
    """Draw at most ``limit`` of the indices 0 .. count - 1, ascending.

    >>> draw(5, 3, seed=0).tolist()
    [0, 2, 3]
    """
    return priorities(0, count, seed).argsort()[:limit].sort().values


def draw_cells(cell: Int[Tensor, " n"], limit: int, seed: int) -> Int[Tensor, " drawn"]:
    """Draw at most ``limit`` samples, ascending: all of a cell before any of another one.

    Args:
        cell: the cell of each sample, integers from 0.
        limit: maximum number of samples.
        seed: selects the cells.

    >>> draw_cells(torch.tensor([0, 1, 0, 2, 1, 2]), 4, seed=0).tolist()
    [0, 2, 3, 5]
    """
    if len(cell) <= limit:
        return torch.arange(len(cell))
    return priorities(0, 1 + int(cell.max()), seed)[cell].argsort(stable=True)[:limit].sort().values


def keep_sampled(parts: list[Tensor], max_samples: int) -> list[Tensor]:
    """Keep the entries of lowest priority, in the order of the stream; the last part holds the priorities."""
    if len(parts[-1]) <= max_samples:
        return parts
    index = parts[-1].topk(max_samples, largest=False).indices.sort().values
    return [part[index] for part in parts]


def sampled_samples(sequences: int, length: int, max_samples: int, seed: int = 0) -> Int[Tensor, "kept positions"]:
    """Draw at most ``max_samples`` indices of samples out of (sequences, length), one line per sequence.

    With more sequences than ``max_samples``, draw that many of them, and one position of each.
    """
    positions = sampled_positions(sequences, length, max_samples, seed)
    return draw(sequences, max_samples, seed)[:, None] * length + positions


def sampled_positions(sequences: int, length: int, max_samples: int, seed: int = 0) -> Int[Tensor, " positions"]:
    """Draw the token positions, ascending, that give about ``max_samples`` samples out of (sequences, length).

    Every sequence gets the same positions, so that rolling the sequences against each other (the null) pairs equal
    positions.
    """
    return draw(length, max(1, max_samples // sequences), seed)
