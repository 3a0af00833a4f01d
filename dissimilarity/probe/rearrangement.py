"""How the null rearranges the sequences of one side: in a circle, so that none meets itself at the same positions.

Each sequence takes the place of the one before it in a circle of all sequences. Where sequences have unequal lengths,
the circle goes from short to long, and a position takes the sample of the next sequence that has that position. So
every sample stays at its position, which models know of whatever text they read, each sample is used once, and most of
a sequence stays together: its tokens have more in common than those of several.

A p value needs rearrangements among which the actual order could be one of many. Along a circle of unequal lengths it
could not, because the ends of sequences fall apart. Nor could it along circles of a few sequences, none of which leaves
any in place. There, for p values, sequences of similar length exchange places at random, at the positions that they
share. If sequences of a group could have come in any order, p has its level whatever the samples of one have in common,
on average over what is drawn.
"""

import itertools
import math
from collections import Counter
from functools import cache
from numbers import Integral

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dissimilarity.probe.sampling import priorities

GROUPED = 4
"""Sequences of similar length that exchange places: fewer lose fewer samples, more make more orders."""

FEW = 7
"""Number of sequences up to which all circles are listed, so that any number of them can be drawn."""


def circles(lengths: Int[Tensor, " sequences"], count: int) -> Int[Tensor, "count sequences"]:
    """Draw different circles of sequences: the place of each sequence in each circle. They are always the same ones.

    Sequences of similar length follow each other. The first circle goes from short to long, those of equal length by
    chance. In the others, sequences of unequal length exchange places with one of the next few, and with more only
    where that gives too few circles.

    Raises:
        ValueError: there are fewer circles.

    >>> circles(torch.tensor([9, 2, 5, 3]), 2).argsort(1).tolist()
    [[0, 2, 3, 1], [0, 3, 1, 2]]
    """
    return _circles(tuple(lengths.tolist()), count)


@cache
def _circles(lengths: tuple[int, ...], count: int) -> Tensor:
    sequences, of_each = len(lengths), torch.tensor(lengths)
    check_nulls(count, sequences)
    if sequences <= FEW:
        ways = torch.tensor([(0, *rest) for rest in itertools.permutations(range(1, sequences))])
        steps = (of_each[ways] - of_each[ways.roll(-1, 1)]).abs().sum(1)
        by_chance = priorities(0, len(ways), sequences).argsort()
        drawn = by_chance[steps[by_chance].argsort(stable=True)][:count].sort().values
        return ways[drawn].argsort(1)
    shorter = (of_each[:, None] > of_each).sum(1)
    unique: dict[tuple[int, ...], None] = {}
    for attempt in itertools.count():
        chance = priorities(attempt * sequences, sequences, sequences).argsort().argsort() / sequences
        known = attempt - len(unique)
        reach = GROUPED + known // 20 if attempt else 1
        members = (shorter + reach * chance).argsort()
        unique[tuple(members.roll(-int(members.argmin())).tolist())] = None
        if len(unique) == count:
            return torch.tensor(list(unique)).argsort(1)
    raise AssertionError


def following(place: Int[Tensor, "*nulls sequences"]) -> Int[Tensor, "*nulls sequences"]:
    """Return the next sequence after each one in circles.

    >>> following(torch.tensor([0, 2, 1])).tolist()
    [2, 0, 1]
    """
    return place.argsort(-1).roll(-1, -1).gather(-1, place)


MANY = 16
"""Sequences from which on circles serve for p values: with fewer, orders without any sequence in place are too few."""


def similar(lengths: Int[Tensor, " sequences"]) -> Int[Tensor, " sequences"]:
    """Divide sequences into groups of similar length; return the group of each.

    A group has four sequences or a few more, and fewer where these would be less than half as long as its longest one.
    Those of equal length are divided by chance, always in the same way.

    >>> similar(torch.tensor([9, 2, 8, 3, 9, 3, 2, 8, 30])).tolist()
    [1, 0, 1, 0, 1, 0, 0, 1, 2]
    """
    by_chance = priorities(0, len(lengths), 0).argsort()
    ordered = by_chance[lengths[by_chance].argsort(stable=True)]
    groups: list[list[int]] = [[]]
    for place, sequence in enumerate(ordered.tolist()):
        is_full = len(groups[-1]) >= GROUPED and len(lengths) - place >= GROUPED
        if groups[-1] and (is_full or lengths[sequence] > 2 * lengths[groups[-1][0]]):
            groups.append([])
        groups[-1].append(sequence)
    group = torch.empty_like(ordered)
    for number, members in enumerate(groups):
        group[members] = number
    return group


def shared(
    sequence: Int[Tensor, " n"], position: Int[Tensor, " n"], group: Int[Tensor, " sequences"]
) -> Bool[Tensor, " n"]:
    """Return whether all sequences of the group of a sample's sequence have a sample at its position.

    >>> shared(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0, 0, 1])).tolist()
    [True, False, True, True, True]
    """
    cell = group[sequence] * (1 + int(position.max())) + position
    return cell.bincount()[cell] == group.bincount()[group[sequence]]


def exchanges(group: Int[Tensor, " sequences"], count: int) -> Int[Tensor, "count sequences"]:
    """Draw different permutations of the sequences of each group: which sequence takes the place of each.

    They are always the same ones, and leave at least two sequences out of place. Where there are fewer, these are all.

    >>> exchanges(torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 0, 2]]
    """
    sequences, ordered = len(group), group.argsort(stable=True)
    count = min(count, math.prod(map(math.factorial, group.bincount().tolist())) - 1)
    unique: dict[tuple[int, ...], None] = {}
    for start in itertools.count(sequences, sequences):
        if len(unique) == count:
            return torch.tensor(list(unique), dtype=torch.int64).view(-1, sequences)
        by_chance = priorities(start, sequences, sequences).argsort()
        taken = by_chance[group[by_chance].argsort(stable=True)]
        drawn = torch.empty_like(ordered).scatter_(0, ordered, taken)
        if bool((drawn != torch.arange(sequences)).any()):
            unique[tuple(drawn.tolist())] = None
    raise AssertionError


def exchanged(
    sequence: Int[Tensor, " n"], position: Int[Tensor, " n"], taken: Int[Tensor, "*nulls sequences"]
) -> Int[Tensor, "*nulls n"]:
    """Return which sample takes the place of each sample under permutations of sequences that share all positions.

    Args:
        sequence: the sequence of each sample.
        position: its position in the sequence.
        taken: which sequence takes the place of each, in a permutation or in each of several.

    >>> exchanged(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1]), torch.tensor([2, 1, 0])).tolist()
    [3, 4, 2, 0, 1]
    """
    sample = torch.full((taken.shape[-1], 1 + int(position.max())), -1)
    sample[sequence, position] = torch.arange(len(sequence))
    order = sample[taken[..., sequence], position]
    assert not bool((order < 0).any())
    return order


def broken(sequence: Int[Tensor, " n"], order: Int[Tensor, " n"]) -> float:
    """Return the share of samples that an order takes out of their sequences.

    Of the samples that meet one sequence, most are from one: the others were taken out of theirs.

    >>> broken(torch.tensor([0, 0, 1, 1, 1, 2, 2, 2]), torch.tensor([2, 3, 5, 6, 7, 0, 1, 4]))
    0.125
    """
    pairs, sizes = torch.stack([sequence, sequence[order]]).unique(dim=1, return_counts=True)
    largest = sizes.new_zeros(1 + int(sequence.max())).scatter_reduce(0, pairs[0], sizes, "amax")
    return 1 - int(largest.sum()) / len(order)


def check_nulls(nulls: int, sequences: int | None = None) -> None:
    """Check a number of rearrangements.

    Args:
        nulls: the number.
        sequences: number of sequences that are rearranged, if it is known.

    Raises:
        ValueError: no whole number above 0, or more than there are.
    """
    if isinstance(nulls, bool) or not isinstance(nulls, Integral) or nulls < 1:
        raise ValueError(f"nulls: expected a whole number of rearrangements, 1 or more, found {nulls!r}")
    most = math.factorial(sequences - 1) if sequences is not None and sequences <= 20 else math.inf
    if nulls > most:
        raise ValueError(
            f"nulls={nulls}: {sequences} sequences can be put into {most} different circles; pass at most "
            f"nulls={most}, or more sequences"
        )


def rearranged(
    sequence: Int[Tensor, " n"],
    position: Int[Tensor, " n"],
    place: Int[Tensor, "*nulls sequences"] | None = None,
    part: Int[Tensor, " n"] | None = None,
) -> Int[Tensor, "*nulls n"] | None:
    """Return which sample takes the place of each sample; None if one sequence has more than half of them.

    Positions that only one sequence has are exchanged with the nearest positions that others have, because there every
    sample would meet its own sequence.

    Args:
        sequence: the sequence of each sample.
        position: its position in the sequence.
        place: the place of each sequence in the circle, or in each of several; by default sequences are in order.
        part: a number for each sample; samples stay in their part as far as others there have the same position.

    >>> rearranged(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 0])).tolist()
    [2, 3, 4, 1, 0]
    """
    place = torch.arange(int(sequence.max()) + 1) if place is None else place
    if part is None and (order := _shifted(sequence, position, place)) is not None:
        return order
    part = torch.zeros_like(sequence) if part is None else part
    members: dict[int, dict[int, list[int]]] = {}
    for index, (at, group) in enumerate(zip(position.tolist(), part.tolist(), strict=True)):
        members.setdefault(at, {}).setdefault(group, []).append(index)
    groups = _meeting(members, sequence.tolist())
    if groups is None:
        return None
    sizes = [len(group) for group in groups]
    # Samples group by group, and in each group the one that follows so far behind that no sequence meets itself.
    group, following_one, start = torch.empty_like(sequence), torch.empty_like(sequence), 0
    for number, (samples, size) in enumerate(zip(map(torch.tensor, groups), sizes, strict=True)):
        group[samples] = number
        longest = int(sequence[samples].bincount().max())
        following_one[start : start + size] = start + (torch.arange(size) + longest) % size
        start += size
    circle = (group * (int(place.max()) + 1) + place[..., sequence]).argsort(stable=True, dim=-1)
    return torch.empty_like(circle).scatter_(-1, circle, circle[..., following_one])


def _shifted(
    sequence: Int[Tensor, " n"], position: Int[Tensor, " n"], place: Int[Tensor, "*nulls sequences"]
) -> Int[Tensor, "*nulls n"] | None:
    """Return the order of whole sequences of equal length, one after the other; None if the samples are no such."""
    length = int((sequence == sequence[0]).sum())
    if len(sequence) % length or len(sequence) == length:
        return None
    rows, positions = sequence.view(-1, length), position.view(-1, length)
    numbers = rows[:, 0]
    if bool((rows != rows[:, :1]).any() or (positions != positions[:1]).any()) or len(numbers.unique()) < len(numbers):
        return None
    if len(positions[0].unique()) < length:
        return None
    rank = place[..., numbers].argsort(-1).argsort(-1)
    return (following(rank)[..., None] * length + torch.arange(length)).flatten(-2)


def _meeting(members: dict[int, dict[int, list[int]]], sequence: list[int]) -> list[list[int]] | None:
    """Group samples that can meet: those of one position and part, or of as few as it takes; None if it cannot be."""
    groups: list[list[int]] = []
    waiting: list[int] = []
    for position in sorted(members, reverse=True):
        first = len(groups)
        for _, samples in sorted(members[position].items()):
            waiting += samples
            if _can_meet(waiting, sequence):
                groups.append(waiting)
                waiting = []
        if waiting and len(groups) > first:
            groups[-1] += waiting
            waiting = [] if _can_meet(groups[-1], sequence) else groups.pop()
    while waiting and groups:
        waiting += groups.pop()
        if _can_meet(waiting, sequence):
            return [*groups, waiting]
    return None if waiting else groups


def _can_meet(samples: list[int], sequence: list[int]) -> bool:
    """Return whether no sequence has more than half of the samples."""
    most = max(Counter(sequence[index] for index in samples).values())
    return 2 * most <= len(samples)
