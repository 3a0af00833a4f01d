"""Average ranks of very many numbers, and how a rank correlation changes when one number counts more."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

BITS = 17
"""Bits of the significand that tell float32 numbers apart. The rest counts as rounding."""

ROUNDING = 2e-14
"""Relative difference up to which float64 numbers count as equal on paper."""

LARGEST_TIE = 3e-4
"""Largest share of all numbers that may have one rank. Above it, more bits tell the numbers apart."""


@dataclass(frozen=True)
class Ranks:
    """Ranks 1 .. N with averaged ties, about their mean.

    Attributes:
        centered: the rank of each number minus the mean rank.
        place: the index of each number among the distinct values, ascending.
    """

    centered: Float[Tensor, " numbers"]
    place: Int[Tensor, " numbers"]

    @cached_property
    def counts(self) -> Int[Tensor, " distinct"]:
        """How many numbers have each distinct value."""
        return torch.bincount(self.place)

    def without(self, left_out: Int[Tensor, " some"]) -> Float[Tensor, " numbers"]:
        """Return the ranks of all numbers but some among themselves, about their mean; zero for those left out."""
        counts = self.counts - torch.bincount(self.place.index_select(0, left_out), minlength=len(self.counts))
        return _centered_ranks(counts).index_select(0, self.place).index_fill_(0, left_out, 0)


def quick_ranks(values: Float[Tensor, " numbers"]) -> Ranks | None:
    """Rank nonnegative float32 numbers by counting, in linear time; None if too many coincide.

    Numbers that agree in 17 bits count as equal. With ties of at most a share t, this moves a rank correlation by t^2.
    """
    drop = 23 - BITS
    low, high = values.aminmax()
    if not bool(low > 0):
        # Zeros have a place of their own, below the smallest of the others.
        low = values.where(values > 0, high).amin()
    low_key, high_key = ((int(end.view(torch.int32)) + (1 << (drop - 1))) >> drop for end in (low, high))
    if high_key - low_key > 2**22:
        return None
    keys = values.view(torch.int32) - (((low_key - 1) << drop) - (1 << (drop - 1)))
    keys.bitwise_right_shift_(drop).clamp_(min=0)
    counts = torch.bincount(keys)
    if int(counts.max()) > LARGEST_TIE * len(values):
        return None
    return Ranks(_centered_ranks(counts).float().index_select(0, keys), keys)


def exact_ranks(values: Float[Tensor, " numbers"]) -> Ranks:
    """Rank squared distances by sorting. Neighbors that differ by rounding alone are ties, and so are those about 0."""
    ordered, order = values.double().sort()
    step = ordered.diff() > ROUNDING * ordered[1:] + ROUNDING**2 * ordered[-1]
    distinct = torch.cat([step.new_zeros(1, dtype=torch.int64), step.cumsum(0)])
    place = torch.empty_like(distinct).scatter_(0, order, distinct)
    return Ranks(_centered_ranks(torch.bincount(distinct)).index_select(0, place), place)


def _centered_ranks(counts: Int[Tensor, " distinct"]) -> Float[Tensor, " distinct"]:
    """Return the average rank of the numbers at each place, minus the mean rank."""
    # On average, half of the numbers at a place are below each of them, and half of all are below the mean rank.
    half = counts.double() / 2
    return half.cumsum(0).mul_(2).sub_(half).sub_(half.sum())


def below(ranks: Ranks, values: Float[Tensor, " numbers"]) -> Float[Tensor, " numbers"]:
    """Return for each number the sum of the values of all numbers of higher rank, and half of those of the same rank.

    This is how much sum_p rank(p) values(p) grows when the number counts more: the rank of everything above it rises.
    """
    totals = values.new_zeros(int(ranks.place.max()) + 1, dtype=torch.float64)
    totals.index_add_(0, ranks.place, values.double())
    return (totals.sum() - totals.cumsum(0) + totals / 2).index_select(0, ranks.place)
