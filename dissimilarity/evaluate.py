"""Values, error bars and nulls of every measure at every pair of sites, as rows of one tidy table."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dissimilarity.jackknife import estimate, stderr_of_mean
from dissimilarity.measure import Measure, MomentMeasure, SampleMeasure
from dissimilarity.moments import Moments, join
from dissimilarity.pairs import Cross, Pair, Side
from dissimilarity.sampling import sampled_rows


def evaluate(
    measures: Sequence[Measure], x: Side, y: Side, cross: Cross, null: Cross | None = None
) -> list[dict[str, Any]]:
    """Every measure at every pair of sites.

    Args:
        measures: moment and sample measures.
        x, y: the two models' sides, closed.
        cross: the sums of the pairs, closed.
        null: the sums of the pairs with the sequences of one side deranged, closed; None leaves the null out.

    Returns:
        rows with measure, site_a, site_b, value, dissimilarity, stderr, null, n_samples, note. A value that cannot be
        computed is NaN, and note says why: never a number that reads as "identical".
    """
    rows = []
    for pair in cross.pairs:
        trouble = x.problem(pair[0]) or y.problem(pair[1])
        for measure in measures:
            found = _failed(measure, x) if trouble else _evaluate_one(measure, x, y, cross, null, pair)
            if trouble:
                found["note"] = trouble
            names = {"measure": measure.label, "site_a": pair[0], "site_b": pair[1]}
            rows.append({**names, **found, "dissimilarity": measure.to_dissimilarity(found["value"])})
    return rows


def _samples_of(measure: Measure, side: Side) -> int:
    return _chosen(measure, side).numel() if isinstance(measure, SampleMeasure) else side.n


def _chosen(measure: SampleMeasure, side: Side) -> Tensor:
    """The rows (sequences, positions) that a measure sees of those that the side holds for all sample measures."""
    length = len(side.sample_groups) // max(side.sequences, 1)
    return sampled_rows(side.sequences, length, measure.samples, measure.seed)


def _failed(measure: Measure, side: Side) -> dict[str, Any]:
    nan = math.nan
    return {"value": nan, "stderr": nan, "null": nan, "n_samples": _samples_of(measure, side), "note": ""}


def _evaluate_one(measure: Measure, x: Side, y: Side, cross: Cross, null: Cross | None, pair: Pair) -> dict[str, Any]:
    """value, stderr, null, n_samples and note of one measure at one pair."""
    result = _failed(measure, x)
    if result["n_samples"] < measure.minimum_samples:
        result["note"] = (
            f"{measure.label} has {result['n_samples']} samples and needs {measure.minimum_samples}: "
            "raise probe.sequences or probe.length"
        )
        return result
    try:
        if isinstance(measure, MomentMeasure):
            result |= _from_sums(measure, x, y, cross, null, pair)
        elif isinstance(measure, SampleMeasure):
            result |= _from_samples(measure, x, y, null is not None, pair)
        else:
            raise ValueError(f"{type(measure).__name__} is neither a MomentMeasure nor a SampleMeasure")
    except (ValueError, RuntimeError) as error:
        result["note"] = f"{measure.label} at {pair[0]} and {pair[1]}: {error}"
        return result
    if math.isnan(result["value"]):
        result["note"] = (
            f"{measure.label} is undefined at {pair[0]} and {pair[1]} for {result['n_samples']} samples: "
            "raise probe.sequences or probe.length"
        )
    return result


def _from_sums(
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, null: Cross | None, pair: Pair
) -> dict[str, float]:
    def joined(of: Moments, per_group: bool) -> Moments:
        sums = [side.sums.groups if per_group else side.sums.totals for side in (x, y)]
        n = x.n_groups if per_group else x.n_groups.sum()
        return join(n.to(of["ab"].device), sums[0][pair[0]], sums[1][pair[1]], of)

    totals, groups = cross.moments(pair)
    value, stderr = estimate(measure.from_moments, joined(totals, False), joined(groups, True))
    result = {"value": value.item(), "stderr": stderr.item()}
    if null is not None:
        result["null"] = measure.from_moments(joined(null.moments(pair)[0], False)).item()
    return result


def _from_samples(measure: SampleMeasure, x: Side, y: Side, with_null: bool, pair: Pair) -> dict[str, float]:
    prepared = []
    chosen = _chosen(measure, x)
    for side, site in ((x, pair[0]), (y, pair[1])):
        if (measure.label, site) not in side.prepared:
            rows = side.samples[site]
            side.prepared[measure.label, site] = measure.prepare(rows[chosen.flatten().to(rows.device)])
        prepared.append(side.prepared[measure.label, site])
    per_sample = measure.per_sample(*prepared)
    stderr = stderr_of_mean(per_sample, x.sample_groups[chosen.flatten()].to(per_sample.device))
    result = {"value": per_sample.mean().item(), "stderr": stderr.item()}
    if with_null:
        order = torch.arange(len(per_sample)).view(chosen.shape).roll(1, 0).flatten()
        deranged = measure.rearrange(prepared[1], order.to(per_sample.device))
        result["null"] = measure.per_sample(prepared[0], deranged).mean().item()
    return result
