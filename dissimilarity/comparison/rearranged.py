"""The samples of one model as they meet those of another one: along circles of all sequences, or after exchanges.

The null takes circles. p values take exchanges where sequences have unequal lengths (``probe.rearrangement``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.of_samples import prepared_pair, prepared_samples
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.agreement import together
from dissimilarity.moments.chunk import Chunk, as_one
from dissimilarity.moments.cross import Cross, SitePair
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SequenceLengths
from dissimilarity.probe.rearrangement import exchanged, exchanges, following, shared


@dataclass(frozen=True)
class Samples:
    """What moment measures read of two models, and in which orders.

    Attributes:
        sides: the sums of each model alone.
        chunks: the samples of each model, as one chunk of all sequences.
        order: returns which sample of the first chunk takes the place of each one in a rearrangement.
        keeps_sequences: whether the samples of each sequence stay together.
        moved: which sequence takes the place of each in each rearrangement; None where lengths differ.
    """

    sides: tuple[Side, Side]
    chunks: tuple[Chunk, Chunk]
    order: Callable[[int], Int[Tensor, " n"]]
    keeps_sequences: bool
    moved: Int[Tensor, "nulls sequences"] | None = None


class Circles:
    """Circles of all sequences.

    Args:
        lengths: units and lengths of the sequences.
        nulls: number of circles.
    """

    def __init__(self, lengths: SequenceLengths, nulls: int) -> None:
        self.place, self.lengths = lengths.circles(nulls), lengths

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.place)

    def of_sums(self, x: ModelActivations, y: ModelActivations, pairs: Sequence[SitePair]) -> Samples:
        """Return what moment measures read at pairs of sites."""
        first, second = _both(x, y, pairs)
        even = not self.lengths.uneven

        def order(number: int) -> Tensor:
            return first.circled(self.place[number])

        return Samples((x.side, y.side), (first, second), order, even, following(self.place) if even else None)

    def of_samples(
        self, measure: SampleMeasure, x: Side, y: Side, pair: SitePair, numbers: slice
    ) -> tuple[Any, Any, Int[Tensor, "nulls n"] | None]:
        """Return both prepared sides of a sample measure, and some of the orders; None if there is no order."""
        first, second, subset = prepared_pair(measure, x, y, pair)
        return first, second, subset.order(self.place[numbers])


class Exchanges:
    """The actual order of all sequences, and then exchanges of those of similar length.

    Only samples at positions that all sequences of a group share are read, so that the groups' orders are alike.

    Args:
        lengths: units and lengths of the sequences.
        nulls: number of exchanges.
    """

    def __init__(self, lengths: SequenceLengths, nulls: int) -> None:
        self.group = lengths.group
        self.taken = torch.cat([torch.arange(len(self.group))[None], exchanges(self.group, nulls)])

    def __len__(self) -> int:
        """Return how many there are, with the actual order."""
        return len(self.taken)

    def of_sums(self, x: ModelActivations, y: ModelActivations, pairs: Sequence[SitePair]) -> Samples | None:
        """Return what moment measures read at pairs of sites; None if it is nothing."""
        sequence, position = (chunks := _both(x, y, pairs))[0].labels
        is_shared = shared(sequence, position, self.group)
        # A group that shares no position is left out, with all of its sequences.
        left, counts = sequence[is_shared].unique(return_counts=True)
        if not len(left):
            return None
        lengths = SequenceLengths(torch.zeros_like(counts), counts, positions=position[is_shared])
        number = torch.zeros_like(self.group).scatter_(0, left, torch.arange(len(left)))
        sides = [Side(lengths, by_sequence=model.side.by_sequence, halves=False, stored=True) for model in (x, y)]
        first, second = (
            side.add({site: part[:, is_shared.to(part.device)] for site, part in chunk.samples.items()}, range(1))
            for side, chunk in zip(sides, chunks, strict=True)
        )
        taken = number[self.taken[:, left]]
        closed = sides[0].close(), sides[1].close()
        return Samples(closed, (first, second), lambda row: exchanged(*first.labels, taken[row]), keeps_sequences=True)

    def of_samples(
        self, measure: SampleMeasure, x: Side, y: Side, pair: SitePair, numbers: slice
    ) -> tuple[Any, Any, Int[Tensor, "nulls n"] | None]:
        """Return both prepared sides of a sample measure, and some of the orders; None if there is no order."""
        subset = x.subset(pair[0], measure.max_samples, measure.seed).shared(self.group)
        if len(subset.index) < measure.minimum_samples:
            return None, None, None
        first, second = (
            prepared_samples(measure, side, site, subset, "shared") for side, site in zip((x, y), pair, strict=True)
        )
        return first, second, subset.exchanged(self.taken[numbers])


Rearrangements = Circles | Exchanges
"""Several orders of the sequences of the first of two models."""


def add_circled(null: Cross, x: ModelActivations, y: ModelActivations, place: Int[Tensor, " sequences"]) -> Side:
    """Add the sums of the null along one circle of all sequences, with those of the second model's units.

    Return the side of the first model with the sequences that its samples form there, computed once per model.

    Args:
        null: the sums.
        x: activations of the first model, whose sequences are rearranged.
        y: activations of the second model, on this process's share of the probe set.
        place: the place of each sequence in the circle.
    """
    side = x.null_side or x.plan.side(x.sites, x.side.sync)
    sites = [site for site, _ in null.pairs] if side.closed else x.sites
    with together(x.side.sync):
        for first, second in zip(circled(x, y.at(), place, sites), y.at(), strict=True):
            null.add(first, second)
            if not side.closed:
                side.add_chunk(first)
    x.null_side = side if side.closed else side.close()
    return x.null_side


def circled(
    x: ModelActivations, chunks: Iterable[Chunk], place: Int[Tensor, " sequences"], sites: Sequence[str]
) -> Iterator[Chunk]:
    """Yield the samples of the first model that meet each chunk of the second along one circle of all sequences."""
    first = _whole(x, sites)
    order, start = first.circled(place), None
    for chunk in chunks:
        # The chunk is a part of the whole: its first sample is the first one with its first label.
        start = int((first.labels[0] < chunk.labels[0][0]).sum()) if start is None else start
        yield first.meeting(chunk, start, order)
        start += len(chunk.labels[0])


def _both(x: ModelActivations, y: ModelActivations, pairs: Sequence[SitePair]) -> tuple[Chunk, Chunk]:
    """Return the samples of both models at pairs of sites as chunks of all sequences."""
    sites, partners = zip(*pairs, strict=True)
    return _whole(x, sites), _whole(y, partners)


def _whole(model: ModelActivations, sites: Sequence[str]) -> Chunk:
    """Return the samples of some sites over all sequences and processes, once these are shared, as one chunk."""
    names = list(dict.fromkeys(sites))
    return as_one(list(model.of_all(names)), names)
