"""Values, error bars and nulls of every measure at every pair of sites, as rows of one tidy table."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross, Pair, stacked
from dissimilarity.moments.pair import Moments, join
from dissimilarity.moments.side import Side

AT_ONCE = 2**20
"""Numbers in the cross products of the pairs that are evaluated together."""

Found = dict[str, Any]


def evaluate(
    measures: Sequence[Measure], x: Side, y: Side, cross: Cross, null: Cross | None = None
) -> list[dict[str, Any]]:
    """Every measure at every pair of sites; measures of outputs at the models' logits.

    Args:
        measures: moment and sample measures.
        x, y: the two models' sides, closed.
        cross: the sums of the pairs, closed.
        null: the sums of the pairs with the sequences of one side deranged, closed; None leaves the null out.

    Returns:
        rows with measure, site_a, site_b, value, dissimilarity, stderr, null, calibrated, n_samples, note. A value that
        cannot be computed is NaN, and note says why: never a number that reads as "identical".
    """
    found: dict[tuple[str, Pair], Found] = {}
    trouble = {pair: x.problem(pair[0]) or y.problem(pair[1]) for pair in cross.pairs}
    sound = [pair for pair in cross.pairs if not trouble[pair]]
    for measure in measures:
        if isinstance(measure, OutputMeasure):
            of = _from_samples(measure, x, y, null is not None, [(LOGITS, LOGITS)])
        elif isinstance(measure, MomentMeasure):
            of = _from_sums(measure, x, y, cross, null, sound)
        else:
            assert isinstance(measure, SampleMeasure)
            of = _from_samples(measure, x, y, null is not None, sound)
        found |= {(measure.label, pair): result for pair, result in of}
    rows = []
    for pair in [*cross.pairs, (LOGITS, LOGITS)]:
        for measure in measures:
            result = found.get((measure.label, pair))
            if result is None and trouble.get(pair) and not isinstance(measure, OutputMeasure):
                result = _failed(measure, x, pair[0], trouble[pair])
            if result is not None:
                names = {"measure": measure.label, "site_a": pair[0], "site_b": pair[1]}
                turned = {
                    "dissimilarity": measure.to_dissimilarity(result["value"]),
                    "calibrated": measure.calibrated(result["value"], result["null"]),
                }
                rows.append({**names, **result, **turned})
    return rows


def pairs_of(measure: Measure, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """The pairs of sites at which a measure is taken: those given, or the models' logits."""
    return [(LOGITS, LOGITS)] if isinstance(measure, OutputMeasure) else pairs


def _samples_of(measure: Measure, side: Side, site: str) -> int:
    return (
        len(side.seen(site, measure.max_samples, measure.seed).rows) if isinstance(measure, SampleMeasure) else side.n
    )


def _failed(measure: Measure, side: Side, site: str, note: str) -> Found:
    nan = math.nan
    return {"value": nan, "stderr": nan, "null": nan, "n_samples": _samples_of(measure, side, site), "note": note}


def _result(measure: Measure, side: Side, pair: Pair, value: float, stderr: float, null: float) -> Found:
    n = _samples_of(measure, side, pair[0])
    note = (
        f"{measure.label} is undefined at {pair[0]} and {pair[1]} for {n} samples: "
        "raise probe.sequences or probe.length"
    )
    return {
        "value": value,
        "stderr": stderr,
        "null": null,
        "n_samples": n,
        "note": note if math.isnan(value) else "",
    }


def _too_few(measure: Measure, side: Side, site: str) -> str:
    have = _samples_of(measure, side, site)
    if have >= measure.minimum_samples:
        return ""
    return (
        f"{measure.label} has {have} samples and needs {measure.minimum_samples}: raise probe.sequences or probe.length"
    )


def _from_sums(
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, null: Cross | None, pairs: list[Pair]
) -> Iterator[tuple[Pair, Found]]:
    """A measure of sums: pairs of one site with partners of one width together, and one by one where that fails."""
    note = _too_few(measure, x, pairs[0][0]) if pairs else ""
    if note:
        yield from ((pair, _failed(measure, x, pair[0], note)) for pair in pairs)
        return
    for batch in _batches(x, cross, pairs):
        try:
            yield from _estimated(measure, x, y, cross, null, batch)
        except (ValueError, RuntimeError):
            for pair in batch:
                try:
                    yield from _estimated(measure, x, y, cross, null, [pair])
                except (ValueError, RuntimeError) as error:
                    yield pair, _failed(measure, x, pair[0], f"{measure.label} at {pair[0]} and {pair[1]}: {error}")


def _batches(x: Side, cross: Cross, pairs: list[Pair]) -> Iterator[list[Pair]]:
    """Pairs that share the first site and the width of the second, so many that their products stay small."""
    together: dict[tuple[str, int], list[Pair]] = {}
    for pair in pairs:
        together.setdefault((pair[0], cross.width(pair[1])), []).append(pair)
    for (site, width), members in together.items():
        size = len(x.sums.totals[site]["x"]) * width * max(1, cross.sums.count)
        most = max(1, AT_ONCE // size)
        yield from (members[start : start + most] for start in range(0, len(members), most))


def _estimated(
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, null: Cross | None, pairs: list[Pair]
) -> list[tuple[Pair, Found]]:
    site, partners = pairs[0][0], [partner for _, partner in pairs]
    own, others = x.sums.totals[site], [y.sums.totals[partner] for partner in partners]

    def joined(of: Cross) -> Moments:
        first = {key: value.expand(len(pairs), *value.shape) for key, value in own.items()}
        second = {key: stacked([other[key] for other in others]) for key in own}
        between = of.sums_of(site, partners)[0]
        n = x.n_groups.sum().to(own["a"].device).expand(len(pairs))
        return join(n, first, second, between)

    totals = joined(cross)
    if cross.sums.count:
        n = x.n_groups[:, None].to(own["a"].device)
        first = {key: value[:, None] for key, value in x.sums.groups[site].items()}
        second = {key: stacked([y.sums.groups[partner][key] for partner in partners], 1) for key in own}
        groups = join(n, first, second, cross.sums_of(site, partners)[1])
        terms = [_self_terms(measure, x, site)], [_self_terms(measure, y, partner) for partner in partners]
        value, stderr = measure.estimate(totals, groups, *terms)
    else:
        value = measure.from_moments(totals)
        stderr = torch.full_like(value, math.nan)
    nulls = torch.full_like(value, math.nan) if null is None else measure.from_moments(joined(null))
    numbers = zip(pairs, value.tolist(), stderr.tolist(), nulls.tolist(), strict=True)
    return [(pair, _result(measure, x, pair, *row)) for pair, *row in numbers]


def _self_terms(measure: MomentMeasure, side: Side, site: str) -> Any:
    if (measure.label, site) not in side.prepared:
        totals, groups = side.sums.totals[site], side.sums.groups[site]
        n = side.n_groups.to(totals["a"].device)
        side.prepared[measure.label, site] = measure.self_terms({**totals, "n": n.sum()}, {**groups, "n": n})
    return side.prepared[measure.label, site]


def _from_samples(
    measure: SampleMeasure, x: Side, y: Side, with_null: bool, pairs: list[Pair]
) -> Iterator[tuple[Pair, Found]]:
    """A measure of rows, pair by pair; each side is prepared once."""
    for pair in pairs:
        note = _too_few(measure, x, pair[0])
        try:
            yield pair, _failed(measure, x, pair[0], note) if note else _compared(measure, x, y, with_null, pair)
        except (ValueError, RuntimeError) as error:
            yield pair, _failed(measure, x, pair[0], f"{measure.label} at {pair[0]} and {pair[1]}: {error}")


def _compared(measure: SampleMeasure, x: Side, y: Side, with_null: bool, pair: Pair) -> Found:
    seen = x.seen(pair[0], measure.max_samples, measure.seed)
    first, second = (_prepared(measure, side, site, seen.rows) for side, site in ((x, pair[0]), (y, pair[1])))
    group = x.sequence_groups[seen.sequence].to(x.samples[pair[0]].device)
    value, stderr = measure.estimate(first, second, group)
    null, note = math.nan, ""
    if with_null and len(group) < 2 * seen.shift:
        note = f"{measure.label} has no null: {seen.shift} of its {len(group)} samples are of one sequence"
    elif with_null:
        order = torch.arange(len(group), device=group.device).roll(seen.shift)
        null = measure.between(first, measure.rearrange(second, order)).item()
    result = _result(measure, x, pair, value.item(), stderr.item(), null)
    return {**result, "note": result["note"] or note}


def _prepared(measure: SampleMeasure, side: Side, site: str, rows: Tensor) -> Any:
    if (measure.label, site) not in side.prepared:
        held = side.samples[site]
        side.prepared[measure.label, site] = measure.prepare(held[rows.to(held.device)])
    return side.prepared[measure.label, site]
