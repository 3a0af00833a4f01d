"""The plan of a comparison, from the probe set and the measures: chunks of sequences, and the sums that are needed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.side import Side
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Slice, cut_sequences, sequences_per_batch
from dissimilarity.probe.padding import SequenceLengths, merge_short_units
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.probe.sampling import sampled_positions

CUTS = 16
"""Parts of whole sequences into which a probe set is cut, for chunks, processes and the null."""


@dataclass(frozen=True)
class Plan:
    """How a probe set is cut and read for some measures.

    Attributes:
        probe: the probe set.
        slices: the chunks of its sequences, over all processes.
        max_samples: maximum number of samples that a sample measure reads; 0 without such measures.
        moments: whether a measure reads sums.
        outputs: whether a measure compares model outputs, read at the site ``logits``.
        rotatable: whether no measure changes if the features of a site are rotated.
        by_sequence: whether a measure reads sums over sequences.
        halves: whether a measure reads sums over halves of the units.
        drawn_from: places of the sequences in a larger probe set, and its number of sequences; None for the whole set.
        merged: whether there are fewer units than there would be without a long sequence.
    """

    probe: ProbeSet
    slices: list[Slice]
    max_samples: int
    moments: bool
    outputs: bool
    rotatable: bool
    by_sequence: bool
    halves: bool
    drawn_from: tuple[Int[Tensor, " sequences"], int] | None = None
    merged: bool = False

    @cached_property
    def lengths(self) -> SequenceLengths:
        """Units and lengths of the sequences, and the sample budget."""
        probe = self.probe
        lengths = SequenceLengths.of_slices(self.slices, probe.sample_counts, self.max_samples, probe.sample_positions)
        return replace(lengths, drawn_from=self.drawn_from, merged=self.merged, pooled=probe.pool != "none")

    @property
    def stored(self) -> bool:
        """Whether error bars come from a second pass over stored activations, and not from sums per unit.

        Cross-fitted measures read sums over halves of the units.
        """
        return self.probe.n_units is None and not self.halves

    @property
    def n_units(self) -> int:
        """Number of units into which the probe set is cut, at most as many as it asks for."""
        return self.lengths.n_units

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the sequences and of their units, which another probe set does not share; empty without inputs.

        Padding is no part of it.

        Of two tokenizations, it is that of the first model's.
        """
        inputs = self.probe.inputs.a.tokens if isinstance(self.probe.inputs, Alignment) else self.probe.inputs
        if not isinstance(inputs, Tensor):
            return ""
        numbers = inputs if inputs.is_floating_point() or inputs.is_complex() else inputs.long()
        shape, mask = tuple(numbers.shape), self.probe.mask
        if mask is not None and shape[:2] == mask.shape:
            numbers = numbers[mask.to(numbers.device)]
            counts = mask.sum(1).tolist()
            shape = (shape[0], counts[0], *shape[2:]) if len(set(counts)) == 1 else (counts, *shape[2:])
        digest = hashlib.sha256(repr((shape, self.lengths.units.tolist())).encode())
        digest.update(numbers.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def bytes_per_sum(self) -> int:
        """Bytes of each number of a sum: in float64, and in float32 per unit where these are needed."""
        return 8 if self.stored else 8 + 4 * self.n_units

    @property
    def separate_units(self) -> bool:
        """Whether chunks hold one unit each, because units differ in their numbers of samples."""
        return self.lengths.counts is not None

    def side(self, sites: Sequence[str], sync: bool = False) -> Side:
        """Return an empty side for a model that is compared at these sites."""
        only_sampled = frozenset({LOGITS} - set(sites)) if self.outputs else frozenset()
        return Side(self.lengths, sync, self.moments, only_sampled, self.by_sequence, self.halves, self.stored)

    def captured(self, sites: Sequence[str]) -> list[str]:
        """Return the sites at which a model is read: those it is compared at, and the logits for output measures."""
        return [*sites, *({LOGITS} - set(sites) if self.outputs else ())]

    def reader(self, sites: Sequence[str]) -> Callable[[str, Tensor, slice | list[int]], Tensor]:
        """Return a function that turns the activations of some sequences at a site into samples."""

        def read(site: str, activation: Tensor, sequences: slice | list[int]) -> Tensor:
            return (self.probe.samples if site in sites else self._sampled_outputs)(activation, sequences)

        return read

    def _sampled_outputs(self, activation: Tensor, sequences: slice | list[int]) -> Tensor:
        """Select the outputs that output measures read, neither pooled nor normalized."""
        activation, real = self.probe.select_positions(activation, sequences)
        if activation.ndim < 3:
            return activation
        if real is None or self.lengths.counts is None:
            positions = sampled_positions(self.probe.extent.sequences, activation.shape[1], self.max_samples)
            return activation[:, positions]
        assert isinstance(sequences, slice)
        samples = activation[real]
        index = self.lengths.sampled_among(int(self.lengths.counts[: sequences.start].sum()), len(samples))
        return samples[index.to(samples.device)][None]

    def for_norms(self) -> "Plan":
        """Return the plan for reading the norms that decide which positions are dropped."""
        return replace(self, probe=self.probe.for_norms(), outputs=False)

    def with_positions(self, kept_positions: Int[Tensor, "sequences kept"]) -> "Plan":
        """Return the plan with the positions that remain after the norms are known."""
        return replace(self, probe=replace(self.probe, kept_positions=kept_positions))


def is_rotatable(measure: Measure) -> bool:
    """Return whether a measure stays the same if the features of one side are rotated."""
    return "orthogonal" in measure.invariant_to or isinstance(measure, OutputMeasure)


def make_plan(probe: ProbeSet, measures: Sequence[Measure], null: bool = True) -> Plan:
    """Plan how a probe set is cut and read for some measures.

    Args:
        probe: the probe set.
        measures: the measures.
        null: whether there is a null, for which no sequence may have most of the samples of a unit.

    Raises:
        ValueError: measures with the same label, which tables could not tell apart; fewer than 2 sequences, or
            than 2 per unit; a mask that leaves one sequence with most of the samples.
    """
    labels = [measure.label for measure in measures]
    if len(set(labels)) < len(labels):
        raise ValueError(f"expected measures of different labels, found {labels}; leave out the duplicates")
    sequences, length = probe.extent
    if probe.n_units is not None and probe.n_units > max(1, sequences // 2):
        raise ValueError(
            f"n_units={probe.n_units}: {sequences} sequences make at most {sequences // 2} units, because the null "
            "moves the sequences of a unit and needs two; leave n_units out, and each sequence is a unit"
        )
    slices = cut = cut_sequences(sequences, probe.n_units or CUTS, sequences_per_batch(length))
    if null and probe.sample_counts is not None and probe.pool == "none":
        slices = merge_short_units(cut, probe.sample_counts)
    return Plan(
        probe=probe,
        slices=slices,
        max_samples=max((measure.max_samples for measure in measures if isinstance(measure, SampleMeasure)), default=0),
        moments=any(isinstance(measure, MomentMeasure) for measure in measures),
        outputs=any(isinstance(measure, OutputMeasure) for measure in measures),
        rotatable=all(map(is_rotatable, measures)),
        by_sequence=any(isinstance(measure, MomentMeasure) and measure.by_sequence for measure in measures),
        halves=any(measure.crossfit for measure in measures),
        merged=slices[-1][2] < cut[-1][2],
    )
