"""Values of moment measures at pairs of sites, with influences of units and nulls, from sums."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.capture.site_names import site_name
from dissimilarity.comparison.estimates import Estimated, Job, ReadAgain, estimates
from dissimilarity.comparison.missing import CROSSFIT_UNITS, agreeing, joined, overfitted, too_few
from dissimilarity.comparison.outcome import Result, failed, outcome
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.moments.cross import Cross, SitePair, stacked
from dissimilarity.moments.pair import Moments, join
from dissimilarity.moments.side import Side

BATCH_NUMBERS = 2**20
"""Numbers in the cross products of the pairs that are evaluated together."""


def from_sums(
    measures: Sequence[MomentMeasure],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    null_x: Side,
    pairs: list[SitePair],
    again: ReadAgain | None,
) -> dict[tuple[str, SitePair], Result]:
    """Evaluate moment measures: one site with partners of one width together, and pair by pair where that fails."""
    results: dict[tuple[str, SitePair], Result] = {}
    waiting: list[tuple[MomentMeasure, list[SitePair]]] = []
    for measure in measures if pairs else ():
        if note := too_few(measure, x, pairs[0][0]):
            results |= {(measure.label, pair): failed(measure, x, pair[0], note) for pair in pairs}
        else:
            waiting += [(measure, batch) for batch in _batches(x, cross, pairs)]
    while waiting:
        alone: list[tuple[MomentMeasure, list[SitePair]]] = []
        for (measure, batch), estimated in zip(
            waiting, _estimated(waiting, x, y, cross, null, null_x, again), strict=True
        ):
            if not isinstance(estimated, Exception):
                rows = zip(batch, _results(measure, x, y, cross, null, batch, *estimated), strict=True)
                results |= {(measure.label, pair): row for pair, row in rows}
            elif len(batch) > 1:
                alone += [(measure, [pair]) for pair in batch]
            else:
                (pair,) = batch
                note = f"{measure.label} at {site_name(*pair)}: {estimated}"
                results[measure.label, pair] = failed(measure, x, pair[0], note)
        waiting = alone
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
    null_x: Side,
    again: ReadAgain | None,
) -> list[tuple[Estimated, Estimated | None] | Exception]:
    """Return values with influences of moment measures at pairs of one site with partners of one width, and the null.

    The null is None where there is none; an error stands for both.
    """
    if again is None:
        return [_from_units(measure, x, y, cross, null, null_x, pairs) for measure, pairs in batches]
    jobs = [
        Job(measure, pairs, side, partial(_joined, side, y, sums, pairs), _numbers(x, cross, pairs), sums is null)
        for measure, pairs in batches
        for side, sums in ((x, cross), (null_x, null))
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
    measure: MomentMeasure, x: Side, y: Side, cross: Cross, null: Cross | None, null_x: Side, pairs: list[SitePair]
) -> tuple[Estimated, Estimated | None] | Exception:
    """Return values with influences from sums per unit, and the null; or why there are none."""
    try:
        value = _with_influence(measure, x, y, cross, pairs)
        if null is None or _mixes_halves(measure, x):
            return value, None
        return value, _with_influence(measure, null_x, y, null, pairs)
    except (ValueError, RuntimeError) as error:
        return error


def _mixes_halves(measure: MomentMeasure, x: Side) -> bool:
    """Return whether a circle of all sequences would mix the halves of a cross-fitted measure."""
    return measure.crossfit and x.lengths.circle is not None


def _forced(measure: MomentMeasure, x: Side, y: Side, pair: SitePair) -> tuple[int, int]:
    """Return in how many directions two sides agree whatever the data, and of how many that a measure compares."""
    sides = list(zip((x, y), pair, strict=True))
    # Ranks take decompositions, and are no more than the widths.
    x_width, y_width = (len(side.sums.totals[site]["x"]) for side, site in sides)
    if not measure.forced(x_width, y_width, x.n):
        return 0, 0
    x_rank, y_rank = (_rank(measure, side, site) for side, site in sides)
    return (0, 0) if x_rank is None or y_rank is None else (measure.forced(x_rank, y_rank, x.n), min(x_rank, y_rank))


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
    forced = [_forced(measure, x, y, pair) for pair in pairs]
    is_forced = torch.tensor([count > 0 for count, _ in forced], device=influence.device)
    influence = influence.masked_fill(is_forced, math.nan)
    columns = value.tolist(), influence.cpu().unbind(1), nulls.tolist(), null_influence.cpu().unbind(1)
    note = ""
    if null is not None and _mixes_halves(measure, x):
        note = f"{measure.label} has no null for sequences of unequal length"
    few = overfitted(measure, x.n, max(len(x.sums.totals[pairs[0][0]]["x"]), cross.width(pairs[0][1])))
    results = []
    for pair, row, (count, directions) in zip(pairs, zip(*columns, strict=True), forced, strict=True):
        result = outcome(measure, x, pair, *row, x.lengths.broken)
        if count and not math.isnan(result["value"]):
            result |= {"note": agreeing(measure, count, directions, x.n), "forced": True}
        else:
            result["note"] = joined(result["note"], note or few)
        results.append(result)
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
