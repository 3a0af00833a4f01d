"""Values, error bars and nulls of every measure at every pair of sites, as records of one tidy table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.estimates import Estimated, Job, ReadAgain, estimates
from dissimilarity.comparison.missing import (
    CROSSFIT_UNITS,
    agreeing,
    overfitted,
    samples_of,
    too_few,
    without_calibrated,
    without_error,
)
from dissimilarity.inference.calibration import calibrate
from dissimilarity.inference.jackknife import stderr_of_influence
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross, SitePair, stacked
from dissimilarity.moments.pair import Moments, join
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SampledSubset

BATCH_NUMBERS = 2**20
"""Numbers in the cross products of the pairs that are evaluated together."""

OUTPUT_PAIRS = [(LOGITS, LOGITS)]

Result = dict[str, Any]
"""Result of a measure at a pair of sites: value, influence, nulls, null_influence, n_samples, note."""


def evaluate(
    measures: Sequence[Measure],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None = None,
    nulls: Mapping[tuple[str, SitePair], Tensor] | None = None,
    again: ReadAgain | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every measure at every pair of sites; output measures at the models' logits.

    Args:
        measures: the measures.
        x: the side of the first model, closed.
        y: the side of the second model, closed.
        cross: the sums of the pairs, closed.
        null: the sums of the pairs with the sequences of one side deranged, closed; None for no null.
        nulls: label, pair -> the value in each of several rearrangements of all sequences, in place of that one.
        again: the activations, where they are stored; None where they were streamed, and sums per unit serve instead.

    Returns:
        records with measure, site_a, site_b, value, dissimilarity, stderr, null, calibrated, calibrated_stderr,
        n_samples, n_units, note, influence (that of each unit on the value) and nulls (the value in each
        rearrangement). A value that cannot be computed is NaN, and note says why: never a number that reads as
        "identical".
    """
    results: dict[tuple[str, SitePair], Result] = {}
    problems = {pair: x.problem(pair[0]) or y.problem(pair[1]) for pair in cross.pairs}
    comparable = [pair for pair in cross.pairs if not problems[pair]]
    of_sums = [measure for measure in measures if isinstance(measure, MomentMeasure)]
    results |= _from_sums(of_sums, x, y, cross, null, comparable, again)
    for measure in measures:
        if isinstance(measure, SampleMeasure):
            pair_results = _from_samples(measure, x, y, null is not None, pairs_of(measure, comparable))
            results |= {(measure.label, pair): result for pair, result in pair_results}
    records = []
    for pair in [*cross.pairs, *OUTPUT_PAIRS]:
        for measure in measures:
            result = results.get((measure.label, pair))
            if result is None and problems.get(pair) and not isinstance(measure, OutputMeasure):
                result = _failed(measure, x, pair[0], problems[pair])
            if result is not None:
                names = {"measure": measure.label, "site_a": pair[0], "site_b": pair[1]}
                if nulls is not None and measure.crossfit:
                    single = f"{measure.label} has the null of one rearrangement, and so no p"
                    result["note"] = "; ".join(filter(None, [result["note"], single]))
                result["nulls"] = (nulls or {}).get((measure.label, pair), result["nulls"])
                records.append({**names, **result, **_derived(measure, x, result)})
                del records[-1]["null_influence"]
    return records


def _derived(measure: Measure, side: Side, result: Result) -> dict[str, Any]:
    """Return what follows from a result: dissimilarity, standard errors, and the calibrated value."""
    value, nulls, note = result["value"], result["nulls"], result["note"]
    # In the null, the samples of a sequence meet those of another one of its group.
    of_groups = (_of_groups(result[name], side) for name in ("influence", "null_influence"))
    influence, null_influence = of_groups
    has_errors = side.stored or side.n_units > 1
    calibration = calibrate(value, nulls, measure.identical, influence, null_influence, has_errors)
    null = nulls.mean().item()
    if calibration is None:
        missing = without_calibrated(measure, null, bool(null_influence.isfinite().all()))
        note = "; ".join(filter(None, [note, missing]))
    return {
        "dissimilarity": measure.to_dissimilarity(value),
        "stderr": stderr_of_influence(result["influence"]).item(),
        "n_units": len(result["influence"]),
        "null": null,
        "calibrated": math.nan if calibration is None else calibration.value,
        "calibrated_stderr": math.nan if calibration is None else calibration.stderr,
        "note": note,
    }


def _of_groups(influence: Tensor, side: Side) -> Tensor:
    """Return the influences of the groups of whole sequences within which the null rearranges them."""
    groups = side.lengths.units.new_zeros(len(influence)).scatter_(0, side.units, side.lengths.units)
    return influence.new_zeros(side.lengths.n_units).index_add_(0, groups, influence)


def pairs_of(measure: Measure, pairs: Sequence[SitePair]) -> Sequence[SitePair]:
    """Return the pairs of sites at which a measure is computed: those given, or the models' logits."""
    return OUTPUT_PAIRS if isinstance(measure, OutputMeasure) else pairs


def _failed(measure: Measure, side: Side, site: str, note: str) -> Result:
    n, unknown = samples_of(measure, side, site), torch.full((side.n_units,), math.nan)
    nothing = {"influence": unknown, "nulls": unknown[:1], "null_influence": unknown}
    return {"value": math.nan, **nothing, "n_samples": n, "note": note}


def _result(
    measure: Measure,
    side: Side,
    pair: SitePair,
    value: float,
    influence: Tensor,
    null: float,
    null_influence: Tensor,
    forced: bool = False,
) -> Result:
    """Return the result of a measure at a pair of sites, with the note for what it lacks.

    Args:
        measure: the measure.
        side: the first side.
        pair: the pair of sites.
        value: the value.
        influence: influences of the units on it.
        null: the null.
        null_influence: influences of the units on the null.
        forced: whether the value is that of identical models, in part at least, whatever the data.
    """
    n = samples_of(measure, side, pair[0])
    note = ""
    if math.isnan(value):
        note = f"{measure.label} is undefined at {pair[0]} and {pair[1]} for {n} samples: pass more or longer sequences"
    elif forced:
        note = agreeing(measure, n)
    elif missing := without_error(measure, side, influence):
        note = f"{measure.label} has no standard error: {missing}"
    nulls = torch.tensor([null], dtype=torch.float64)
    null_result = {"nulls": nulls, "null_influence": null_influence}
    return {"value": value, "influence": influence, **null_result, "n_samples": n, "note": note}


def _from_sums(
    measures: Sequence[MomentMeasure],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    pairs: list[SitePair],
    again: ReadAgain | None,
) -> dict[tuple[str, SitePair], Result]:
    """Evaluate moment measures: one site with partners of one width together, and pair by pair where that fails."""
    results: dict[tuple[str, SitePair], Result] = {}
    waiting: list[tuple[MomentMeasure, list[SitePair]]] = []
    for measure in measures if pairs else ():
        if note := too_few(measure, x, pairs[0][0]):
            results |= {(measure.label, pair): _failed(measure, x, pair[0], note) for pair in pairs}
        else:
            waiting += [(measure, batch) for batch in _batches(x, cross, pairs)]
    while waiting:
        failed = []
        for (measure, batch), outcome in zip(waiting, _estimated(waiting, x, y, cross, null, again), strict=True):
            if not isinstance(outcome, Exception):
                rows = zip(batch, _results(measure, x, y, cross, null, batch, *outcome), strict=True)
                results |= {(measure.label, pair): row for pair, row in rows}
            elif len(batch) > 1:
                failed += [(measure, [pair]) for pair in batch]
            else:
                (pair,) = batch
                note = f"{measure.label} at {pair[0]} and {pair[1]}: {outcome}"
                results[measure.label, pair] = _failed(measure, x, pair[0], note)
        waiting = failed
    return results


def _batches(x: Side, cross: Cross, pairs: list[SitePair]) -> Iterator[list[SitePair]]:
    """Group pairs that share the first site and the width of the second, in batches whose products stay small."""
    groups: dict[tuple[str, int], list[SitePair]] = {}
    for pair in pairs:
        groups.setdefault((pair[0], cross.width(pair[1])), []).append(pair)
    for (site, width), members in groups.items():
        size = len(x.sums.totals[site]["x"]) * width * max(1, cross.sums.n_units)
        count = max(1, BATCH_NUMBERS // size)
        yield from (members[start : start + count] for start in range(0, len(members), count))


def _estimated(
    batches: Sequence[tuple[MomentMeasure, list[SitePair]]],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    again: ReadAgain | None,
) -> list[tuple[Estimated, Estimated | None] | Exception]:
    """Return values with influences of moment measures at pairs of one site with partners of one width, and the null.

    The null is None where there is none; an error stands for both.
    """
    if again is None:
        return [_from_units(measure, x, y, cross, null, pairs) for measure, pairs in batches]
    jobs = [
        Job(measure, pairs, partial(_joined, x, y, sums, pairs), _numbers(x, cross, pairs), sums is null)
        for measure, pairs in batches
        for sums in (cross, null)
        if sums is not None
    ]
    outcomes = iter(estimates(jobs, x, y, again))
    results: list[tuple[Estimated, Estimated | None] | Exception] = []
    for _ in batches:
        value, of_null = next(outcomes), None if null is None else next(outcomes)
        if isinstance(value, Exception):
            results.append(value)
        elif isinstance(of_null, Exception):
            results.append(of_null)
        else:
            results.append((value, of_null))
    return results


def _numbers(x: Side, cross: Cross, pairs: Sequence[SitePair]) -> int:
    """Return how many numbers the products of pairs of sites have."""
    return sum(len(x.sums.totals[site]["x"]) * cross.width(partner) for site, partner in pairs)


def _from_units(
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, null: Cross | None, pairs: list[SitePair]
) -> tuple[Estimated, Estimated | None] | Exception:
    """Return values with influences from sums per unit, and the null; or why there are none."""
    try:
        value = _with_influence(measure, x, y, cross, pairs)
        if null is None or _mixes_halves(measure, x):
            return value, None
        return value, _with_influence(measure, x, y, null, pairs)
    except (ValueError, RuntimeError) as error:
        return error


def _mixes_halves(measure: MomentMeasure, x: Side) -> bool:
    """Return whether a circle of all sequences would mix the halves of a cross-fitted measure."""
    return measure.crossfit and x.lengths.circle is not None


def _is_forced(measure: MomentMeasure, x: Side, y: Side, pair: SitePair) -> bool:
    """Return whether a value is that of identical models, in part at least, whatever the data."""
    sides = list(zip((x, y), pair, strict=True))
    # Ranks take decompositions, and are no more than the widths.
    x_width, y_width = (len(side.sums.totals[site]["x"]) for side, site in sides)
    if not measure.is_forced(x_width, y_width, x.n):
        return False
    x_rank, y_rank = (_rank(measure, side, site) for side, site in sides)
    return x_rank is not None and y_rank is not None and measure.is_forced(x_rank, y_rank, x.n)


def _rank(measure: MomentMeasure, side: Side, site: str) -> int | None:
    """Return the rank of a site's whitening, computed once per side: it takes a decomposition."""
    if (measure.label, site) not in side.ranks:
        side.ranks[measure.label, site] = measure.rank(side.counts()[0] | side.totals(site))
    return side.ranks[measure.label, site]


def _results(
    measure: MomentMeasure,
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    pairs: list[SitePair],
    estimated: Estimated,
    of_null: Estimated | None,
) -> list[Result]:
    """Return the results of a moment measure at pairs of one site with partners of one width."""
    value, influence = estimated
    nulls, null_influence = of_null or (torch.full_like(value, math.nan), torch.full_like(influence, math.nan))
    if measure.crossfit and x.lengths.n_units < CROSSFIT_UNITS:
        influence, null_influence = (torch.full_like(values, math.nan) for values in (influence, null_influence))
    forced = [_is_forced(measure, x, y, pair) for pair in pairs]
    influence = influence.masked_fill(torch.tensor(forced, device=influence.device), math.nan)
    columns = value.tolist(), influence.cpu().unbind(1), nulls.tolist(), null_influence.cpu().unbind(1)
    is_mixed = null is not None and _mixes_halves(measure, x)
    note = f"{measure.label} has no null for sequences of unequal length" if is_mixed else ""
    few = overfitted(measure, x.n, max(len(x.sums.totals[pairs[0][0]]["x"]), cross.width(pairs[0][1])))
    results = []
    for pair, row, own in zip(pairs, zip(*columns, strict=True), forced, strict=True):
        result = _result(measure, x, pair, *row, forced=own)
        notes = [result["note"], note, "" if own or note else few]
        results.append({**result, "note": "; ".join(filter(None, notes))})
    return results


def _with_influence(measure: MomentMeasure, x: Side, y: Side, cross: Cross, pairs: list[SitePair]) -> Estimated:
    """Return the values of pairs of one site with partners of one width, and the influences of units on them."""
    site, partners = pairs[0][0], [partner for _, partner in pairs]
    if not cross.sums.n_units:
        value = _plain(measure, x, y, cross, pairs)
        return value, value.new_full((x.n_units, *value.shape), math.nan)
    n, first = ({key: value[:, None] for key, value in m.items()} for m in (x.counts()[1], x.sums.units[site]))
    second = {key: stacked([y.sums.units[partner][key] for partner in partners], 1) for key in x.sums.units[site]}
    units = join(n, first, second, cross.sums_of(site, partners)[1])
    return measure.estimate(_joined(x, y, cross, pairs), units, *_terms_of(measure, x, y, pairs))


def _plain(measure: MomentMeasure, x: Side, y: Side, cross: Cross, pairs: list[SitePair]) -> Float[Tensor, " pairs"]:
    """Return the values of pairs of one site with partners of one width, without influences."""
    return measure.from_terms(_joined(x, y, cross, pairs), *_terms_of(measure, x, y, pairs))


def moment_values(
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, pairs: list[SitePair]
) -> Iterator[tuple[SitePair, float]]:
    """Yield the value of a moment measure at each pair that has one, from sums without units."""
    if too_few(measure, x, pairs[0][0]):
        return
    for batch in _batches(x, cross, pairs):
        try:
            yield from zip(batch, _plain(measure, x, y, cross, batch).tolist(), strict=True)
        except (ValueError, RuntimeError):
            for pair in batch:
                with suppress(ValueError, RuntimeError):  # the record of the value says why
                    yield pair, _plain(measure, x, y, cross, [pair]).item()


def _joined(x: Side, y: Side, cross: Cross, pairs: list[SitePair]) -> Moments:
    """Return all sums over samples of pairs of one site with partners of one width."""
    site, partners = pairs[0][0], [partner for _, partner in pairs]
    n, first = (
        {key: value.expand(len(pairs), *value.shape) for key, value in m.items()}
        for m in (x.counts()[0], x.totals(site))
    )
    partner_sums = [y.totals(partner) for partner in partners]
    second = {key: stacked([sums[key] for sums in partner_sums]) for key in partner_sums[0]}
    return join(n, first, second, cross.sums_of(site, partners)[0])


def _terms_of(measure: MomentMeasure, x: Side, y: Side, pairs: list[SitePair]) -> tuple[list[Any], list[Any]]:
    return [self_terms(measure, x, pairs[0][0])], [self_terms(measure, y, partner) for _, partner in pairs]


def self_terms(measure: MomentMeasure, side: Side, site: str) -> Any:
    """Return the self terms of a measure at a site, computed once per side."""
    if (measure.label, site) not in side.prepared:
        counts, unit_counts = side.counts()
        units = {**unit_counts, **side.sums.units[site]} if side.sums.n_units else {}
        side.prepared[measure.label, site] = measure.self_terms({**counts, **side.totals(site)}, units)
    return side.prepared[measure.label, site]


def _from_samples(
    measure: SampleMeasure, x: Side, y: Side, with_null: bool, pairs: Sequence[SitePair]
) -> Iterator[tuple[SitePair, Result]]:
    """Evaluate a sample measure pair by pair; each side is prepared once."""
    for pair in pairs:
        note = too_few(measure, x, pair[0])
        try:
            yield pair, _failed(measure, x, pair[0], note) if note else _compared(measure, x, y, with_null, pair)
        except (ValueError, RuntimeError) as error:
            yield pair, _failed(measure, x, pair[0], f"{measure.label} at {pair[0]} and {pair[1]}: {error}")


def _compared(measure: SampleMeasure, x: Side, y: Side, with_null: bool, pair: SitePair) -> Result:
    """Evaluate a sample measure at one pair of sites."""
    first, second, subset = prepared_pair(measure, x, y, pair)
    units = x.units[subset.sequence].to(x.samples[pair[0]].device)

    def estimated(rearranged: Any) -> tuple[float, Tensor]:
        value, influence = measure.estimate(rearranged, second, units)
        return value.item(), torch.nn.functional.pad(influence, (0, x.n_units - len(influence))).cpu()

    value, influence = estimated(first)
    null, null_influence, note = math.nan, torch.full_like(influence, math.nan), ""
    order = subset.order(x.lengths.circle) if with_null else None
    if order is not None:
        null, null_influence = estimated(measure.rearrange(first, order.to(units.device)))
    elif with_null:
        note = f"{measure.label} has no null: {subset.most} of its {len(units)} samples are from one sequence"
    result = _result(measure, x, pair, value, influence, null, null_influence)
    return {**result, "note": result["note"] or note}


def prepared_pair(measure: SampleMeasure, x: Side, y: Side, pair: SitePair) -> tuple[Any, Any, SampledSubset]:
    """Return both prepared sides of a sample measure at a pair of sites, and the samples that it reads."""
    subset = x.subset(pair[0], measure.max_samples, measure.seed)
    first, second = (_prepared(measure, side, site, subset) for side, site in ((x, pair[0]), (y, pair[1])))
    return first, second, subset


def _prepared(measure: SampleMeasure, side: Side, site: str, subset: SampledSubset) -> Any:
    """Return the prepared samples of a measure at a site, computed once per side."""
    if (measure.label, site) not in side.prepared:
        side.prepared[measure.label, site] = prepared_samples(measure, side, site, subset)
    return side.prepared[measure.label, site]


def prepared_samples(measure: SampleMeasure, side: Side, site: str, subset: SampledSubset) -> Any:
    """Return some samples of a site as a measure reads them."""
    samples = side.samples[site]
    samples = samples[subset.index.to(samples.device)]
    return measure.prepare(samples) if subset.most == 1 else measure.prepare_sequences(samples, subset.sequence)
