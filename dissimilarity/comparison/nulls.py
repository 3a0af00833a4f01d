"""The null of several rearrangements of the sequences of one model, and what it says of values and of the best pair.

Each rearrangement puts all sequences into a circle of their own (``probe.rearrangement``), so it needs the activations
of both models on the whole probe set. A moment measure takes the sums over pairs of sites again for each, n p q
operations, and its decomposition; a sample measure takes its comparison, n^2, with a site that is rearranged once for
all of its partners. Linear CKA of whole sequences has a cheaper form (``measures.numerics.rearranged_hsic``).
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.evaluate import pairs_of
from dissimilarity.comparison.missing import joined, without_p
from dissimilarity.comparison.of_sums import moment_values, self_terms
from dissimilarity.comparison.rearranged import Rearrangements, Samples
from dissimilarity.inference.calibration import p_value
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.cross import Cross, SitePair
from dissimilarity.moments.side import Side

Nulls = dict[tuple[str, SitePair], Float[Tensor, " nulls"]]
"""Label of a measure, pair of sites -> the value in each rearrangement."""

SITES_TOGETHER = 2**30
"""Bytes of activations up to which all sites are rearranged together; beyond, pair by pair."""


def rearranged_values(
    measures: Sequence[Measure],
    x: ModelActivations,
    y: ModelActivations,
    pairs: Sequence[SitePair],
    rearrangements: Rearrangements,
) -> Nulls:
    """Return the value of every measure at every pair of sites in each rearrangement; NaN where it has none.

    With several processes, each takes a part of the rearrangements.

    Args:
        measures: the measures.
        x: activations of the first model, whose sequences are rearranged, with their sums.
        y: activations of the second model.
        pairs: pairs of sites.
        rearrangements: the orders of the sequences.
    """
    sync, nulls = x.side.sync, len(rearrangements)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if sync else (0, 1)
    share = range(rank, nulls, processes)
    comparable = [pair for pair in pairs if not (x.side.problem(pair[0]) or y.side.problem(pair[1]))]
    # The halves of a cross-fitted measure are of units, which rearrangements of all sequences mix.
    of_sums = [measure for measure in measures if isinstance(measure, MomentMeasure) and not measure.crossfit]
    unknown = torch.full((nulls,), math.nan, dtype=torch.float64)
    values: Nulls = {(measure.label, pair): unknown.clone() for measure in of_sums for pair in comparable}
    with together(sync):
        for group in _groups(comparable, x, y) if of_sums else []:
            if (samples := rearrangements.of_sums(x, y, group)) is not None:
                values |= _of_sums(of_sums, samples, group, share, nulls)
        for measure in measures:
            if isinstance(measure, SampleMeasure):
                of_pairs = _of_samples(measure, rearrangements, x.side, y.side, pairs_of(measure, comparable), share)
                for pair, part in of_pairs.items():
                    row = values[measure.label, pair] = unknown.clone()
                    row[_as_slice(share)] = part
    return _joined(gathered(values, sync), processes)


def with_significance(records: list[dict[str, Any]], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Return the records of two models with what their rearrangements say, in place of the nulls themselves.

    ``null_sd`` is the spread of the nulls, and ``null_best`` their mean for the best of all pairs of sites, chosen
    again in each rearrangement. ``p`` is the p value of the pair of sites alone, and ``p_best`` that against the best
    of all pairs, which holds for whichever pair was picked; both follow from ``exchanged``.

    Args:
        records: records of ``evaluate`` of all pairs of sites, with ``nulls``, and ``exchanged``: the value in the
            actual order and in each rearrangement from which p follows.
        measures: the measures.
    """
    for measure in measures:
        group = [record for record in records if record["measure"] == measure.label]
        best = _nearest(measure, [record["nulls"] for record in group])
        best_exchanged = _nearest(measure, [record["exchanged"][1:] for record in group])
        for record in group:
            nulls, nearness = record.pop("nulls"), _nearness(measure, record.pop("exchanged"))
            if len(nulls) > 1 and bool(nearness.isnan().any() or len(nearness) < 3) and not math.isnan(record["value"]):
                record["note"] = joined(record["note"], without_p(measure))
            record["null_sd"] = nulls.std().item() if len(nulls) > 1 else math.nan
            record["p"] = p_value(nearness[0].item(), nearness[1:])
            record["null_best"] = _nearness(measure, best).mean().item()
            record["p_best"] = p_value(nearness[0].item(), best_exchanged)
    return records


def _nearest(measure: Measure, nulls: Sequence[Tensor]) -> Float[Tensor, " nulls"]:
    """Return the nearness of the most similar pair of sites in each rearrangement."""
    present = [values for values in nulls if not bool(values.isnan().any())]
    most = max(map(len, present), default=1)
    near = [_nearness(measure, values) for values in present if len(values) == most]
    return torch.stack(near).amax(0) if near else torch.full((1,), math.nan)


def _nearness(measure: Measure, values: Tensor) -> Tensor:
    """Return values, or minus values, so that more similar is larger; its own inverse."""
    return values if measure.higher_is_more_similar else -values


def _groups(pairs: Sequence[SitePair], x: ModelActivations, y: ModelActivations) -> list[list[SitePair]]:
    if not pairs:
        return []
    return [list(pairs)] if x.nbytes() + y.nbytes() <= SITES_TOGETHER else [[pair] for pair in pairs]


def _prefer_kernels(x: Chunk, y: Chunk, nulls: int) -> bool:
    """Return whether kernels of pairs of sequences take less work."""
    if x.sequences is None:
        return False
    widths = [max(samples.shape[-1] for samples in chunk.samples.values()) for chunk in (x, y)]
    return MomentMeasure.prefers_kernels(x.sequences.count, int(x.sequences.lengths[0]), (widths[0], widths[1]), nulls)


def _of_sums(
    measures: Sequence[MomentMeasure], samples: Samples, pairs: Sequence[SitePair], share: range, nulls: int
) -> Nulls:
    """Return the values of moment measures in a share of the rearrangements; in all of them where kernels serve."""
    values: Nulls = {}
    (x, y), (first, second) = samples.sides, samples.chunks
    quick: dict[str, MomentMeasure] = {}
    if samples.moved is not None and _prefer_kernels(first, second, nulls):
        quick = {measure.label: measure for measure in measures if measure.reads_kernels}
        values |= _of_kernels(list(quick.values()), samples, pairs, samples.moved)
    # By label: metrics of torchmetrics are never unequal.
    others = [measure for measure in measures if measure.label not in quick]
    for number in share if others else ():
        null, moved = Cross(pairs), first.rearranged(samples.order(number))
        null.add(moved, second)
        null_x = x if samples.keeps_sequences else x.of_chunk(moved)
        for measure in others:
            for pair, value in moment_values(measure, null_x, y, null, list(pairs)):
                row = values.setdefault((measure.label, pair), torch.full((nulls,), math.nan).double())
                row[number] = value
    return values


def _of_kernels(
    measures: Sequence[MomentMeasure],
    samples: Samples,
    pairs: Sequence[SitePair],
    moved: Int[Tensor, "nulls sequences"],
) -> Nulls:
    """Return the values of measures that read kernels, in all rearrangements."""
    kernels: list[dict[str, Any]] = [{}, {}]
    for side, chunk, sites in zip(kernels, samples.chunks, zip(*pairs, strict=True), strict=True):
        for site in dict.fromkeys(sites) if measures else ():
            side[site] = MomentMeasure.kernel(chunk.samples[site][0].unflatten(0, (moved.shape[1], -1)))
    values: Nulls = {}
    for measure in measures:
        for pair in pairs:
            terms = [self_terms(measure, side, site) for side, site in zip(samples.sides, pair, strict=True)]
            null = measure.of_kernels(kernels[0][pair[0]], kernels[1][pair[1]], moved, *terms)
            values[measure.label, pair] = null.cpu().double()
    return values


def _of_samples(
    measure: SampleMeasure,
    rearrangements: Rearrangements,
    x: Side,
    y: Side,
    pairs: Sequence[SitePair],
    share: range,
) -> dict[SitePair, Float[Tensor, "*nulls"]]:
    """Return the values of a sample measure in a share of the rearrangements; NaN where there are none.

    A site of x is rearranged once for all of its partners, and for each alone if one of them fails.
    """
    values = dict.fromkeys(pairs, torch.tensor(math.nan))
    groups: dict[str, list[tuple[SitePair, Any, Any, Tensor]]] = {}
    for pair in pairs if share else ():
        with suppress(ValueError, RuntimeError):  # the record of the value says why
            first, second, orders = rearrangements.of_samples(measure, x, y, pair, _as_slice(share))
            if orders is not None:
                groups.setdefault(pair[0], []).append((pair, first, second, orders))
    waiting = list(groups.values())
    while waiting:
        group = waiting.pop()
        group_pairs, first, seconds, orders = zip(*group, strict=True)
        try:
            of_group = measure.rearranged_values(first[0], seconds, orders[0])
        except (ValueError, RuntimeError):
            waiting += [[member] for member in group] if len(group) > 1 else []
        else:
            values |= zip(group_pairs, of_group.cpu().double().unbind(1), strict=True)
    return values


def _as_slice(share: range) -> slice:
    """Return a range as a slice."""
    return slice(share.start, share.stop, share.step)


def _joined(parts: list[Nulls], processes: int) -> Nulls:
    """Return the rearrangements of all processes."""
    joined: Nulls = {}
    for rank, part in enumerate(parts):
        for key, values in part.items():
            row = joined.setdefault(key, torch.full_like(values, math.nan))
            row[rank::processes] = values[rank::processes]
    return joined
