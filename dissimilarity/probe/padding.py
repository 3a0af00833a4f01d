"""Sequences of unequal length: padded positions are ignored everywhere.

If a mask marks the real positions, the samples of a few sequences are concatenated without the padding between them.
Sums over samples stay dense, and a unit has as many samples as its sequences have. No sample is dropped to make units
equal. Equal lengths are the special case in which every sequence has the same positions.

The standard errors stay those of ``dissimilarity.inference.jackknife``: the influence of a unit is that of its sums,
including its number of samples, so that long sequences have the same weight as in the value itself. (Busing et al. 1999
weigh units by the inverse of their sizes, which suits independent samples; tokens of a sequence are not.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.probe.arguments import shown
from dissimilarity.probe.batches import Slice
from dissimilarity.probe.rearrangement import MANY, broken, circles, exchanged, rearranged, shared, similar
from dissimilarity.probe.sampling import draw_cells, sampled_positions, sampled_samples

MOST_UNITS = 128
"""Units of an error bar, beyond which more would add nothing: Student's t has as many degrees of freedom."""


@dataclass(frozen=True)
class SampledSubset:
    """The samples that one sample measure reads.

    Attributes:
        index: their indices among the samples that are kept for all sample measures.
        sequence: the sequence of each sample.
        position: its position in the sequence.
        chunk: the chunk that the sequence belongs to.
        group: its group of similar length, whose sequences are drawn at the same positions; None if all samples are
            read, or all sequences have the same positions.
    """

    index: Int[Tensor, " n"]
    sequence: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    chunk: Int[Tensor, " n"]
    group: Int[Tensor, " n"] | None = None

    @cached_property
    def most(self) -> int:
        """Number of samples of the sequence that has most."""
        return int(self.sequence.bincount().max())

    def order(self, place: Int[Tensor, "*nulls sequences"] | None = None) -> Int[Tensor, "*nulls n"] | None:
        """Return how the null rearranges the samples: along circles, or by default within each chunk."""
        return rearranged(self.sequence, self.position, place, self.chunk if place is None else self.group)

    def shared(self, group: Int[Tensor, " sequences"]) -> "SampledSubset":
        """Return the samples at positions that all sequences of a group share."""
        is_shared = shared(self.sequence, self.position, group)
        return SampledSubset(*(labels[is_shared] for labels in (self.index, self.sequence, self.position, self.chunk)))

    def exchanged(self, taken: Int[Tensor, "*nulls sequences"]) -> Int[Tensor, "*nulls n"]:
        """Return how permutations of sequences rearrange the samples, at positions that they share."""
        return exchanged(self.sequence, self.position, taken)


@dataclass(frozen=True, eq=False)
class SequenceLengths:
    """Units and lengths of the sequences of a probe set, and which of their samples are drawn.

    Attributes:
        units: the unit of each sequence.
        counts: samples of each sequence, 1 or more; None if all have the same number, which then depends on the site.
        max_samples: maximum number of samples of a sample measure, over all processes; 0 without such measures.
        chunks: the chunk of each sequence; None if each unit is one.
        positions: the position of each sample in its sequence, over all sequences; None if they count from 0 in each.
        drawn_from: places of the sequences in a larger probe set, and its number of sequences; None for the whole set.
        pooled: whether sites have one sample per sequence, and only outputs have a sample per position.
    """

    units: Int[Tensor, " sequences"]
    counts: Int[Tensor, " sequences"] | None = None
    max_samples: int = 0
    chunks: Int[Tensor, " sequences"] | None = None
    positions: Int[Tensor, " samples"] | None = None
    drawn_from: tuple[Int[Tensor, " sequences"], int] | None = None
    pooled: bool = False

    @classmethod
    def of_slices(
        cls,
        slices: Sequence[Slice],
        counts: Int[Tensor, " sequences"] | None = None,
        max_samples: int = 0,
        positions: Int[Tensor, " samples"] | None = None,
    ) -> "SequenceLengths":
        """Return the lengths for the chunks (start, stop, unit) of a probe set."""
        sizes = torch.tensor([stop - start for start, stop, _ in slices])
        units = torch.tensor([unit for _, _, unit in slices]).repeat_interleave(sizes)
        return cls(units, counts, max_samples, torch.arange(len(slices)).repeat_interleave(sizes), positions)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return 1 + int(self.units.max())

    @cached_property
    def error_units(self) -> Int[Tensor, " sequences"]:
        """The unit of each sequence for error bars where samples are stored: itself, or one of `MOST_UNITS` groups."""
        places, count = self.drawn_from or (torch.arange(len(self.units)), len(self.units))
        return places * self.n_error_units // count

    @property
    def n_error_units(self) -> int:
        """Number of units of error bars where samples are stored."""
        return min(len(self.units) if self.drawn_from is None else self.drawn_from[1], MOST_UNITS)

    @cached_property
    def vary(self) -> bool:
        """Whether sequences have different numbers of samples."""
        return self.counts is not None and bool((self.counts != self.counts[0]).any())

    @cached_property
    def uneven(self) -> bool:
        """Whether sequences have samples at different positions."""
        if self.vary or self.positions is None:
            return self.vary and not self.pooled
        return bool(self.positions.view(len(self.units), -1).diff(dim=0).any())

    @cached_property
    def circle(self) -> Int[Tensor, " sequences"] | None:
        """The circle along which a single null rearranges all sequences; None if it rearranges those of each chunk.

        The few sequences of a chunk share all positions only where sequences have samples at the same ones.
        """
        return self.circles(1)[0] if self.uneven else None

    def circles(self, count: int) -> Int[Tensor, "count sequences"]:
        """Draw circles of all sequences, in which those of similar length follow each other: the place of each one."""
        return circles(torch.ones_like(self.units) if self.counts is None else self.counts, count)

    @cached_property
    def dominated(self) -> int:
        """Number of samples of a sequence that has more than half of all, so that there is no null; 0 without one."""
        if self.counts is None or self.pooled or 2 * int(self.counts.max()) <= int(self.counts.sum()):
            return 0
        return int(self.counts.max())

    @property
    def exchange(self) -> bool:
        """Whether p values follow from exchanges, and not from the circles of the null."""
        return self.uneven or len(self.units) < MANY

    @cached_property
    def group(self) -> Int[Tensor, " sequences"]:
        """The group of each sequence: those of similar length, or all where they have the same positions."""
        if not (self.uneven or self.vary):
            return torch.zeros_like(self.units)
        return similar(torch.ones_like(self.units) if self.counts is None else self.counts)

    @property
    def broken(self) -> float:
        """Share of samples that the null takes out of their sequences: 0 where all have the same positions."""
        return self.broken_in(1)

    def broken_in(self, count: int) -> float:
        """Return the mean of that share over several circles, computed once for all pairs of models."""
        if count not in self._shares:
            orders = rearranged(self._sequence, self._position, self.circles(count)) if self.uneven else None
            shares = [] if orders is None else [broken(self._sequence, order) for order in orders]
            self._shares[count] = sum(shares) / count
        return self._shares[count]

    @cached_property
    def _shares(self) -> dict[int, float]:
        """What ``broken_in`` returned, by number of circles."""
        return {}

    @cached_property
    def relative(self) -> Float[Tensor, " sequences"]:
        """The number of samples of each sequence, in units of the mean over all sequences."""
        counts = torch.ones(len(self.units)) if self.counts is None else self.counts
        return counts.double() / counts.double().mean()

    def vary_in(self, activation: Tensor) -> bool:
        """Return whether a chunk's activations are samples (1, n, d) of sequences of unequal length."""
        return self.counts is not None and activation.ndim > 2

    def labels(self, activation: Tensor, units: range, before: int) -> tuple[Tensor, Tensor]:
        """Return the sequence of each sample of a chunk, and its position in the sequence.

        Args:
            activation: activation of the chunk.
            units: the units that it belongs to.
            before: samples of the first unit in earlier chunks.
        """
        first = int((self.units < units.start).sum())
        if self.counts is not None and self.vary_in(activation):
            start = int(self.counts[:first].sum()) + before
            stop = start + activation.shape[1]
            return self._sequence[start:stop], self._position[start:stop]
        length = _positions(activation)
        sequence = first + before // length + torch.arange(len(activation)).repeat_interleave(length)
        return sequence, self._positions_of(sequence, torch.arange(length).repeat(len(activation)), length)

    def _positions_of(self, sequence: Tensor, index: Tensor, length: int) -> Tensor:
        """Return the positions of samples of sequences of one length from their indices within their sequences."""
        if self.positions is None or len(self.positions) != length * len(self.units):
            return index
        return self.positions[sequence * length + index]

    def sampled_in_chunk(self, activation: Tensor, unit: int, before: int) -> Int[Tensor, " drawn"] | None:
        """Draw the samples of a chunk that sample measures read; None for all of them.

        Args:
            activation: activation of the chunk.
            unit: its first unit.
            before: samples of that unit in earlier chunks.
        """
        if self.counts is not None and self.vary_in(activation):
            first = int(self.counts[self.units < unit].sum()) + before
            return self.sampled_among(first, activation.shape[1])
        length = _positions(activation)
        positions = sampled_positions(len(self.units), length, self.max_samples)
        if len(positions) == length:
            return None
        return (torch.arange(len(activation))[:, None] * length + positions).flatten()

    def sampled_among(self, first: int, count: int) -> Int[Tensor, " drawn"]:
        """Return which of ``count`` samples are drawn, where the first of them is sample ``first`` of all."""
        return self.drawn[(self.drawn >= first) & (self.drawn < first + count)] - first

    def subset(self, held: int, varying: bool, max_samples: int, seed: int) -> SampledSubset:
        """Draw the samples that one sample measure reads from those held for all of them.

        Args:
            held: number of samples held at a site.
            varying: whether the site has positions of sequences of unequal length.
            max_samples: maximum number of samples that the measure reads.
            seed: seed of the draw.
        """
        if varying:
            index = draw_cells(self._cell[self.drawn], max_samples, seed)
            sequence, position = (labels[self.drawn[index]] for labels in (self._sequence, self._position))
        else:
            length = held // len(self.units)
            index = sampled_samples(len(self.units), length, max_samples, seed).flatten()
            sequence = index // length
            position = self._positions_of(sequence, index % length, length)
        chunks = self.units if self.chunks is None else self.chunks
        is_drawn = varying and self.uneven and len(index) < len(self._sequence)
        return SampledSubset(index, sequence, position, chunks[sequence], self.group[sequence] if is_drawn else None)

    @cached_property
    def drawn(self) -> Int[Tensor, " drawn"]:
        """The samples drawn for sample measures, by their indices among all samples, ascending.

        Sequences of similar length are drawn at the same positions, as far as they share them.
        """
        return draw_cells(self._cell, self.max_samples, 0)

    @cached_property
    def _cell(self) -> Int[Tensor, " samples"]:
        """The position of each sample in its group of sequences, where lengths vary."""
        assert self.counts is not None
        return similar(self.counts)[self._sequence] * (1 + int(self._position.max())) + self._position

    @cached_property
    def _sequence(self) -> Int[Tensor, " samples"]:
        """The sequence of each sample, where positions vary."""
        sequences = torch.arange(len(self.units))
        if self.counts is not None:
            return sequences.repeat_interleave(self.counts)
        assert self.positions is not None
        return sequences.repeat_interleave(len(self.positions) // len(sequences))

    @cached_property
    def _position(self) -> Int[Tensor, " samples"]:
        """The position of each sample in its sequence, where positions vary."""
        if self.positions is not None:
            return self.positions
        assert self.counts is not None
        starts = self.counts.cumsum(0) - self.counts
        return torch.arange(len(self._sequence)) - starts[self._sequence]


def _positions(activation: Tensor) -> int:
    """Return the positions per sequence of activations (sequences, ..., d); 1 where they have none."""
    return activation[..., 0].numel() // len(activation) if activation.ndim > 1 else 1


def as_mask(mask: Any) -> Tensor:
    """Return a mask as a tensor, also an array or nested lists.

    Raises:
        ValueError: something else.
    """
    try:
        return torch.as_tensor(mask)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"expected a boolean mask (sequences, positions), found {shown(mask)}") from error


def check_mask(mask: Tensor, sequences: int, length: int | None) -> None:
    """Check that a mask fits a probe set.

    Args:
        mask: True where a position is real.
        sequences: number of sequences of the probe set.
        length: their number of positions; None where it is unknown.

    Raises:
        ValueError: another type or shape, or a sequence without a real position.
    """
    if mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != sequences or length not in (None, mask.shape[1]):
        raise ValueError(
            f"expected a boolean mask of shape ({sequences}, {'positions' if length is None else length}), True "
            f"where a position is real, found {mask.dtype} and {tuple(mask.shape)}"
        )
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"expected a real position in every sequence, found none in {len(empty)} of them, such as "
            f"sequence {empty[0]}; leave them out of the probe set"
        )
