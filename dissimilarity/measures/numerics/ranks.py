"""Average ranks of very many numbers, and what a rank correlation changes by when a number counts more."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BITS = 17
"""Bits of the significand by which float32 numbers are told apart; the rest is taken for rounding."""

ROUNDING = 2e-14
"""By what share float64 numbers differ that are equal on paper."""

LARGEST_TIE = 3e-4
"""The share of all numbers that may be of one rank before they are told apart by more bits."""


@dataclass(frozen=True)
class Ranks:
    """Ranks 1 .. N, ties averaged, about their mean.

    Attributes:
        centered: the rank of each number, less the mean rank.
        place: which of the distinct values each number is, ascending.
    """

    centered: Float[Tensor, " numbers"]
    place: Int[Tensor, " numbers"]


def quick_ranks(values: Float[Tensor, " numbers"]) -> Ranks | None:
    """Ranks of float32 numbers that are not negative by counting, in linear time; None where too many fall together.

    Numbers that agree in 17 bits count as equal. With ties of at most a share t that moves a rank correlation by t^2.
    """
    drop = 23 - BITS
    low, high = values.aminmax()
    if not bool(low > 0):
        # Zeros have a place of their own, under the smallest of the others.
        low = values.where(values > 0, high).amin()
    low_key, high_key = ((int(end.view(torch.int32)) + (1 << (drop - 1))) >> drop for end in (low, high))
    if high_key - low_key > 2**22:
        return None
    keys = values.view(torch.int32) - (((low_key - 1) << drop) - (1 << (drop - 1)))
    keys.bitwise_right_shift_(drop).clamp_(min=0)
    counts = torch.bincount(keys)
    if int(counts.max()) > LARGEST_TIE * len(values):
        return None
    return Ranks(_middles(counts).float().index_select(0, keys), keys)


def exact_ranks(values: Float[Tensor, " numbers"]) -> Ranks:
    """Ranks of numbers that are not negative, by sorting; equal are neighbors that differ by rounding alone."""
    ordered, order = values.double().sort()
    step = ordered.diff() > ROUNDING * ordered[1:]
    group = torch.cat([step.new_zeros(1, dtype=torch.int64), step.cumsum(0)])
    place = torch.empty_like(group).scatter_(0, order, group)
    return Ranks(_middles(torch.bincount(group)).index_select(0, place), place)


def _middles(counts: Int[Tensor, " distinct"]) -> Float[Tensor, " distinct"]:
    """The average rank of the numbers of each place, about the mean rank."""
    before = counts.cumsum(0) - counts
    return before.double() + (counts.double() - counts.sum()) / 2


def ranks_among(ranks: Ranks, chosen: Int[Tensor, " some"]) -> Float[Tensor, " some"]:
    """The ranks of some of the numbers among themselves, about their mean."""
    place = ranks.place.index_select(0, chosen)
    return _middles(torch.bincount(place)).index_select(0, place)


def below(ranks: Ranks, values: Float[Tensor, " numbers"]) -> Float[Tensor, " numbers"]:
    """For each number the sum of the values of those of higher rank, and half of those of the same rank.

    That is how much sum_p rank(p) values(p) grows when the number counts more: the rank of all above it rises.
    """
    totals = values.new_zeros(int(ranks.place.max()) + 1, dtype=torch.float64)
    totals.index_add_(0, ranks.place, values.double())
    return (totals.sum() - totals.cumsum(0) + totals / 2).index_select(0, ranks.place)
