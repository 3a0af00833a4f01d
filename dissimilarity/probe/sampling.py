"""Which samples the measures see that compare samples with each other: bounded, seeded, the same on every process."""

import torch
from jaxtyping import Int
from torch import Tensor


def priorities(start: int, count: int, seed: int) -> Int[Tensor, " count"]:
    """A pseudo-random rank for each place ``start .. start + count - 1`` of a stream.

    Keeping the rows of lowest rank is a uniform sample without replacement that does not depend on how the stream was
    cut into batches. The mixing is the 32-bit integer hash lowbias32 (Wellons 2018).
    """
    z = torch.arange(start, start + count, dtype=torch.int64) + 0x9E3779B9 * (seed + 1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        z = z & 0xFFFFFFFF
        z = (z ^ (z >> shift)) * factor
    return (z & 0xFFFFFFFF) << 31 | torch.arange(start, start + count, dtype=torch.int64) & 0x7FFFFFFF


def keep_sampled(parts: list[Tensor], samples: int) -> list[Tensor]:
    """The ``samples`` entries of lowest priority, in the order of the stream; the last part holds the priorities."""
    if len(parts[-1]) <= samples:
        return parts
    chosen = parts[-1].topk(samples, largest=False).indices.sort().values
    return [part[chosen] for part in parts]


def sampled_rows(sequences: int, length: int, samples: int, seed: int = 0) -> Int[Tensor, "kept positions"]:
    """Indices of at most ``samples`` rows out of (sequences, length), one line a sequence that is kept.

    Of more sequences than ``samples``, as many are kept, and one position of each.
    """
    positions = sampled_positions(sequences, length, samples, seed)
    return sampled_sequences(sequences, samples, seed)[:, None] * length + positions


def sampled_sequences(sequences: int, samples: int, seed: int = 0) -> Int[Tensor, " kept"]:
    """Which sequences, ascending, have a row among ``samples``: all of them, or where there are more, as many."""
    return priorities(0, sequences, seed).argsort()[:samples].sort().values


def sampled_positions(sequences: int, length: int, samples: int, seed: int = 0) -> Int[Tensor, " positions"]:
    """Token positions, ascending, that give about ``samples`` rows out of (sequences, length).

    The same positions are taken from every sequence, so that shifting the sequences against each other (the null)
    pairs equal positions.
    """
    per_sequence = min(length, max(1, samples // sequences))
    return priorities(0, length, seed).argsort()[:per_sequence].sort().values
