"""The null of several rearrangements of the sequences of one model, and what it says of values and of the best pair.

Each rearrangement puts all sequences into a circle of their own (``probe.rearrangement``), so it needs the activations
of both models on the whole probe set. A moment measure takes the sums over pairs of sites again for each, n p q
operations, and its decomposition; a sample measure takes its comparison, n^2. Linear CKA of whole sequences has a
cheaper form (``measures.numerics.rearranged_hsic``).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.evaluate import moment_values, pairs_of, prepared_pair, self_terms
from dissimilarity.inference.calibration import p_value
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.moments.chunk import Chunk, as_one
from dissimilarity.moments.cross import Cross, SitePair
from dissimilarity.probe.padding import SequenceLengths
from dissimilarity.probe.rearrangement import circles, following

Nulls = dict[tuple[str, SitePair], Float[Tensor, " nulls"]]
"""Label of a measure, pair of sites -> the value in each rearrangement."""

SITES_TOGETHER = 2**30
"""Bytes of activations up to which all sites are rearranged together; beyond, pair by pair."""


def add_circled(null: Cross, x: ModelActivations, y: ModelActivations, place: Int[Tensor, " sequences"]) -> None:
    """Add the sums of the null along one circle of all sequences, with those of the second model's units.

    Args:
        null: the sums.
        x: activations of the first model, whose sequences are rearranged.
        y: activations of the second model, on this process's share of the probe set.
        place: the place of each sequence in the circle.
    """
    with together(x.side.sync):
        for first, second in zip(circled(x, y.at(), place, [site for site, _ in null.pairs]), y.at(), strict=True):
            null.add(first, second)


def circled(
    x: ModelActivations, chunks: Iterable[Chunk], place: Int[Tensor, " sequences"], sites: Sequence[str]
) -> Iterator[Chunk]:
    """Yield the samples of the first model that meet each chunk of the second along one circle of all sequences."""
    first = whole(x, sites)
    order, start = first.circled(place), None
    for chunk in chunks:
        # The chunk is a part of the whole: its first sample is the first one with its first label.
        start = int((first.labels[0] < chunk.labels[0][0]).sum()) if start is None else start
        yield first.meeting(chunk, start, order)
        start += len(chunk.labels[0])


def rearranged_values(
    measures: Sequence[Measure],
    x: ModelActivations,
    y: ModelActivations,
    pairs: Sequence[SitePair],
    nulls: int,
    exchange: bool = False,
) -> Nulls:
    """Return the value of every measure at every pair of sites in each rearrangement; NaN where it has none.

    With several processes, each takes a part of the rearrangements.

    Args:
        measures: the measures.
        x: activations of the first model, whose sequences are rearranged, with their sums.
        y: activations of the second model.
        pairs: pairs of sites.
        nulls: number of rearrangements.
        exchange: whether sequences of similar length exchange places, and not along circles of all sequences.

    Raises:
        ValueError: more rearrangements than there are.
    """
    sync, lengths = x.side.sync, x.plan.lengths
    places = lengths.exchanges(nulls) if exchange else circles(len(lengths.units), nulls)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if sync else (0, 1)
    share = range(rank, nulls, processes)
    comparable = [pair for pair in pairs if not (x.side.problem(pair[0]) or y.side.problem(pair[1]))]
    values: Nulls = {}
    # The halves of a cross-fitted measure are of units, which a circle of all sequences mixes.
    of_sums = [measure for measure in measures if isinstance(measure, MomentMeasure) and not measure.crossfit]
    with together(sync):
        for group in _groups(comparable, x, y) if of_sums else []:
            values |= _of_sums(of_sums, x, y, group, places, share, exchange)
        for measure in measures:
            if isinstance(measure, SampleMeasure):
                for pair in pairs_of(measure, comparable):
                    values[measure.label, pair] = _of_samples(measure, x, y, pair, places, share, exchange)
    return _joined(gathered(values, sync), processes)


def with_significance(records: list[dict[str, Any]], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the records of two models with what their rearrangements say, in place of the nulls themselves.

    ``null_sd`` is the spread of the nulls, and ``null_best`` their mean for the best of all pairs of sites, chosen
    again in each rearrangement. ``p`` is the p value of the pair of sites alone, and ``p_best`` that against the best
    of all pairs, which holds for whichever pair was picked; both follow from ``exchanged``.

    Args:
        records: records of ``evaluate`` of all pairs of sites, with ``nulls`` and ``exchanged``.
        measures: the measures.
    """
    for measure in measures:
        group = [record for record in records if record["measure"] == measure.label]
        best, best_exchanged = (_nearest(measure, [record[key] for record in group]) for key in ("nulls", "exchanged"))
        for record in group:
            nulls, others, nearness = record.pop("nulls"), record.pop("exchanged"), -record["dissimilarity"]
            record["null_sd"] = nulls.std().item() if len(nulls) > 1 else math.nan
            record["p"] = p_value(nearness, -measure.to_dissimilarity(others))
            record["null_best"] = _value_of(measure, -best.mean().item())
            record["p_best"] = p_value(nearness, best_exchanged)
    return records


def _nearest(measure: Measure, nulls: Sequence[Tensor]) -> Float[Tensor, " nulls"]:
    """Return minus the dissimilarity of the most similar pair of sites in each rearrangement."""
    present = [values for values in nulls if not bool(values.isnan().any())]
    most = max(map(len, present), default=1)
    near = [-measure.to_dissimilarity(values) for values in present if len(values) == most]
    return torch.stack(near).amax(0) if near else torch.full((1,), math.nan)


def _value_of(measure: Measure, dissimilarity: float) -> float:
    """Return the value with a dissimilarity."""
    return measure.identical + (-dissimilarity if measure.higher_is_more_similar else dissimilarity)


def _groups(pairs: Sequence[SitePair], x: ModelActivations, y: ModelActivations) -> list[list[SitePair]]:
    if not pairs:
        return []
    return [list(pairs)] if x.nbytes() + y.nbytes() <= SITES_TOGETHER else [[pair] for pair in pairs]


def whole(model: ModelActivations, sites: Sequence[str]) -> Chunk:
    """Return the samples of some sites over all sequences and processes, once these are shared, as one chunk."""
    names = list(dict.fromkeys(sites))
    return as_one(list(model.of_all(names)), names)


def _prefer_kernels(lengths: SequenceLengths, x: Chunk, y: Chunk, nulls: int) -> bool:
    """Return whether kernels of pairs of sequences serve, and take less work: sequences move as a whole."""
    if lengths.uneven or x.sequences is None:
        return False
    widths = [max(samples.shape[-1] for samples in chunk.samples.values()) for chunk in (x, y)]
    return MomentMeasure.prefers_kernels(x.sequences.count, int(x.sequences.lengths[0]), (widths[0], widths[1]), nulls)


def _of_sums(
    measures: Sequence[MomentMeasure],
    x: ModelActivations,
    y: ModelActivations,
    pairs: Sequence[SitePair],
    places: Int[Tensor, "nulls sequences"],
    share: range,
    exchange: bool,
) -> Nulls:
    """Return the values of moment measures in a share of the rearrangements; in all of them where kernels serve."""
    values: Nulls = {}
    first, second = (whole(model, sites) for model, sites in zip((x, y), zip(*pairs, strict=True), strict=True))
    quick = {
        measure.label: measure
        for measure in measures
        if not exchange and measure.reads_kernels and _prefer_kernels(x.plan.lengths, first, second, len(places))
    }
    if quick:
        values |= _of_kernels(list(quick.values()), x, y, (first, second), pairs, places)
    # By label: metrics of torchmetrics are never unequal.
    others = [measure for measure in measures if measure.label not in quick]
    for number in share if others else ():
        null = Cross(pairs)
        order = first.exchanged(places[number]) if exchange else first.circled(places[number])
        null.add(first.rearranged(order), second)
        for measure in others:
            for pair, value in moment_values(measure, x.side, y.side, null, list(pairs)):
                row = values.setdefault((measure.label, pair), torch.full((len(places),), math.nan).double())
                row[number] = value
    return values


def _of_kernels(
    measures: Sequence[MomentMeasure],
    x: ModelActivations,
    y: ModelActivations,
    chunks: tuple[Chunk, Chunk],
    pairs: Sequence[SitePair],
    places: Int[Tensor, "nulls sequences"],
) -> Nulls:
    """Return the values of measures that read kernels, in all rearrangements."""
    order = following(places)
    kernels: list[dict[str, Any]] = [{}, {}]
    for side, chunk, sites in zip(kernels, chunks, zip(*pairs, strict=True), strict=True):
        for site in dict.fromkeys(sites):
            side[site] = MomentMeasure.kernel(chunk.samples[site][0].unflatten(0, (len(order[0]), -1)))
    values: Nulls = {}
    for measure in measures:
        for pair in pairs:
            terms = [self_terms(measure, model.side, site) for model, site in zip((x, y), pair, strict=True)]
            null = measure.of_kernels(kernels[0][pair[0]], kernels[1][pair[1]], order, *terms)
            values[measure.label, pair] = null.cpu().double()
    return values


def _of_samples(
    measure: SampleMeasure,
    x: ModelActivations,
    y: ModelActivations,
    pair: SitePair,
    places: Int[Tensor, "nulls sequences"],
    share: range,
    exchange: bool,
) -> Float[Tensor, " nulls"]:
    """Return the value of a sample measure at one pair of sites in a share of the rearrangements."""
    values = torch.full((len(places),), math.nan, dtype=torch.float64)
    try:
        first, second, subset = prepared_pair(measure, x.side, y.side, pair)
        own = places[share.start :: share.step]
        orders = subset.exchanged(own) if exchange else subset.order(own)
        if orders is not None and len(orders):
            values[share.start :: share.step] = measure.rearranged_values(first, second, orders).cpu().double()
    except (ValueError, RuntimeError):
        return values  # the record of the value says why
    return values


def _joined(parts: list[Nulls], processes: int) -> Nulls:
    """Return the rearrangements of all processes."""
    joined: Nulls = {}
    for rank, part in enumerate(parts):
        for key, values in part.items():
            row = joined.setdefault(key, torch.full_like(values, math.nan))
            row[rank::processes] = values[rank::processes]
    return joined
