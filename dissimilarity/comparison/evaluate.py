"""Values, error bars and nulls of every measure at every pair of sites, as records of one tidy table."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.inference.jackknife import stderr_of_influence
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross, SitePair, stacked
from dissimilarity.moments.pair import Moments, join
from dissimilarity.moments.paired_samples import Again, PairedSamples
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SampledSubset

BATCH_NUMBERS = 2**20
"""Numbers in the cross products of the pairs that are evaluated together."""

OUTPUT_PAIRS = [(LOGITS, LOGITS)]

Result = dict[str, Any]
"""Result of a measure at a pair of sites: value, influence, null, n_samples, note."""


def evaluate(
    measures: Sequence[Measure],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None = None,
    again: tuple[Again, Again] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every measure at every pair of sites; output measures at the models' logits.

    Args:
        measures: the measures.
        x: the side of the first model, closed.
        y: the side of the second model, closed.
        cross: the sums of the pairs, closed.
        null: the sums of the pairs with the sequences of one side deranged, closed; None for no null.
        again: yields the chunks of x, and those of y, once more, where activations are stored; None where they were
            streamed, and the sums per unit serve the error bars.

    Returns:
        records with measure, site_a, site_b, value, dissimilarity, stderr, null, calibrated, n_samples, n_units, note,
        and influence, that of each unit on the value. A value that cannot be computed is NaN, and note says why: never
        a number that reads as "identical".
    """
    results: dict[tuple[str, SitePair], Result] = {}
    problems = {pair: x.problem(pair[0]) or y.problem(pair[1]) for pair in cross.pairs}
    comparable = [pair for pair in cross.pairs if not problems[pair]]
    for measure in measures:
        if isinstance(measure, OutputMeasure):
            pair_results = _from_samples(measure, x, y, null is not None, OUTPUT_PAIRS)
        elif isinstance(measure, MomentMeasure):
            pair_results = _from_sums(measure, x, y, cross, null, comparable, again)
        else:
            assert isinstance(measure, SampleMeasure)
            pair_results = _from_samples(measure, x, y, null is not None, comparable)
        results |= {(measure.label, pair): result for pair, result in pair_results}
    records = []
    for pair in [*cross.pairs, *OUTPUT_PAIRS]:
        for measure in measures:
            result = results.get((measure.label, pair))
            if result is None and problems.get(pair) and not isinstance(measure, OutputMeasure):
                result = _failed(measure, x, pair[0], problems[pair])
            if result is not None:
                names = {"measure": measure.label, "site_a": pair[0], "site_b": pair[1]}
                derived = {
                    "dissimilarity": measure.to_dissimilarity(result["value"]),
                    "stderr": stderr_of_influence(result["influence"]).item(),
                    "n_units": len(result["influence"]),
                    "calibrated": measure.calibrated(result["value"], result["null"]),
                }
                records.append({**names, **result, **derived})
    return records


def pairs_of(measure: Measure, pairs: Sequence[SitePair]) -> Sequence[SitePair]:
    """Return the pairs of sites at which a measure is computed: those given, or the models' logits."""
    return OUTPUT_PAIRS if isinstance(measure, OutputMeasure) else pairs


def _units(side: Side) -> Tensor:
    """Return the unit of each sequence for error bars: a sequence where activations are stored, else a group."""
    return side.lengths.error_units if side.stored and side.lengths.n_units > 1 else side.lengths.units


def _n_units(side: Side) -> int:
    return 1 + int(_units(side).max())


def _samples_of(measure: Measure, side: Side, site: str) -> int:
    """Return how many samples a measure reads."""
    if isinstance(measure, SampleMeasure):
        return len(side.subset(site, measure.max_samples, measure.seed).index)
    return side.n


def _failed(measure: Measure, side: Side, site: str, note: str) -> Result:
    n, influence = _samples_of(measure, side, site), torch.full((_n_units(side),), math.nan)
    return {"value": math.nan, "influence": influence, "null": math.nan, "n_samples": n, "note": note}


def _result(measure: Measure, side: Side, pair: SitePair, value: float, influence: Tensor, null: float) -> Result:
    n = _samples_of(measure, side, pair[0])
    note = ""
    if math.isnan(value):
        note = f"{measure.label} is undefined at {pair[0]} and {pair[1]} for {n} samples: pass more or longer sequences"
    elif (sequences := len(side.lengths.units)) < 4:
        note = f"{measure.label} has no standard error: it needs 4 sequences in 2 units and has {sequences}: pass more"
    return {"value": value, "influence": influence, "null": null, "n_samples": n, "note": note}


def _too_few(measure: Measure, side: Side, site: str) -> str:
    """Return the note for too few samples or sequences; empty if there are enough."""
    n, sequences = _samples_of(measure, side, site), len(side.lengths.units)
    if n < measure.minimum_samples:
        return f"{measure.label} has {n} samples and needs {measure.minimum_samples}: pass more or longer sequences"
    if measure.by_sequence and sequences < measure.minimum_samples:
        return (
            f"{measure.label} has {sequences} sequences and needs {measure.minimum_samples}: pass more sequences, or "
            "take the measure with units='sample'"
        )
    return ""


def _from_sums(
    measure: MomentMeasure,
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    pairs: list[SitePair],
    again: tuple[Again, Again] | None,
) -> Iterator[tuple[SitePair, Result]]:
    """Evaluate a moment measure: one site with partners of one width together, and pair by pair where that fails."""
    note = _too_few(measure, x, pairs[0][0]) if pairs else ""
    if note:
        yield from ((pair, _failed(measure, x, pair[0], note)) for pair in pairs)
        return
    for batch in _batches(x, cross, pairs):
        try:
            yield from _estimated(measure, x, y, cross, null, batch, again)
        except (ValueError, RuntimeError):
            for pair in batch:
                try:
                    yield from _estimated(measure, x, y, cross, null, [pair], again)
                except (ValueError, RuntimeError) as error:
                    yield pair, _failed(measure, x, pair[0], f"{measure.label} at {pair[0]} and {pair[1]}: {error}")


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
    measure: MomentMeasure,
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None,
    pairs: list[SitePair],
    again: tuple[Again, Again] | None,
) -> list[tuple[SitePair, Result]]:
    """Estimate a moment measure, its error bar and its null at pairs of one site with partners of one width."""
    site, partners = pairs[0][0], [partner for _, partner in pairs]
    counts, unit_counts = x.counts()

    def joined(cross_sums: Cross) -> Moments:
        n, first = (
            {key: value.expand(len(pairs), *value.shape) for key, value in m.items()} for m in (counts, x.totals(site))
        )
        partner_sums = [y.totals(partner) for partner in partners]
        second = {key: stacked([sums[key] for sums in partner_sums]) for key in partner_sums[0]}
        return join(n, first, second, cross_sums.sums_of(site, partners)[0])

    totals = joined(cross)
    again_x, again_y = again or (None, None)
    terms = (
        [_self_terms(measure, x, site, again_x)],
        [_self_terms(measure, y, partner, again_y) for partner in partners],
    )
    if again is not None:
        samples = PairedSamples(*again, site, partners, len(x.lengths.units), x.sync)
        value, of_sequences = measure.estimate_again(totals, samples, *terms)
        influence = of_sequences.new_zeros(_n_units(x), len(pairs)).index_add_(0, _units(x), of_sequences.cpu())
    elif cross.sums.n_units:
        n, first = ({key: value[:, None] for key, value in m.items()} for m in (unit_counts, x.sums.units[site]))
        second = {key: stacked([y.sums.units[partner][key] for partner in partners], 1) for key in x.sums.units[site]}
        units = join(n, first, second, cross.sums_of(site, partners)[1])
        value, influence = measure.estimate(totals, units, *terms)
    else:
        value = measure.from_terms(totals, *terms)
        influence = value.new_full((x.lengths.n_units, *value.shape), math.nan)
    nulls = torch.full_like(value, math.nan) if null is None else measure.from_terms(joined(null), *terms)
    estimates = zip(pairs, value.tolist(), influence.cpu().unbind(1), nulls.tolist(), strict=True)
    return [(pair, _result(measure, x, pair, number, share, null)) for pair, number, share, null in estimates]


def _self_terms(measure: MomentMeasure, side: Side, site: str, again: Again | None) -> Any:
    """Return the self terms of a measure at a site, computed once per side."""
    if (measure.label, site) not in side.prepared:
        counts, unit_counts = side.counts()
        totals = {**counts, **side.totals(site)}
        if again is not None:
            samples = PairedSamples(again, again, site, [site], len(side.lengths.units), side.sync)
            side.prepared[measure.label, site] = measure.terms_again(totals, samples)
        else:
            units = {**unit_counts, **side.sums.units[site]} if side.sums.n_units else {}
            side.prepared[measure.label, site] = measure.self_terms(totals, units)
    return side.prepared[measure.label, site]


def _from_samples(
    measure: SampleMeasure, x: Side, y: Side, with_null: bool, pairs: list[SitePair]
) -> Iterator[tuple[SitePair, Result]]:
    """Evaluate a sample measure pair by pair; each side is prepared once."""
    for pair in pairs:
        note = _too_few(measure, x, pair[0])
        try:
            yield pair, _failed(measure, x, pair[0], note) if note else _compared(measure, x, y, with_null, pair)
        except (ValueError, RuntimeError) as error:
            yield pair, _failed(measure, x, pair[0], f"{measure.label} at {pair[0]} and {pair[1]}: {error}")


def _compared(measure: SampleMeasure, x: Side, y: Side, with_null: bool, pair: SitePair) -> Result:
    """Evaluate a sample measure at one pair of sites."""
    subset = x.subset(pair[0], measure.max_samples, measure.seed)
    first, second = (_prepared(measure, side, site, subset) for side, site in ((x, pair[0]), (y, pair[1])))
    units = _units(x)[subset.sequence].to(x.samples[pair[0]].device)
    value, influence = measure.estimate(first, second, units)
    influence = torch.nn.functional.pad(influence, (0, _n_units(x) - len(influence))).cpu()
    null, note = math.nan, ""
    if with_null and len(units) < 2 * subset.roll:
        note = f"{measure.label} has no null: {subset.roll} of its {len(units)} samples are from one sequence"
    elif with_null:
        order = torch.arange(len(units), device=units.device).roll(subset.roll)
        null = measure.between(first, measure.rearrange(second, order)).item()
    result = _result(measure, x, pair, value.item(), influence, null)
    return {**result, "note": result["note"] or note}


def _prepared(measure: SampleMeasure, side: Side, site: str, subset: SampledSubset) -> Any:
    """Return the prepared samples of a measure at a site, computed once per side."""
    if (measure.label, site) not in side.prepared:
        samples = side.samples[site]
        samples = samples[subset.index.to(samples.device)]
        prepared = measure.prepare(samples) if subset.single else measure.prepare_sequences(samples, subset.sequence)
        side.prepared[measure.label, site] = prepared
    return side.prepared[measure.label, site]
