"""Values, error bars and nulls of every measure at every pair of sites, as records of one tidy table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.estimates import ReadAgain
from dissimilarity.comparison.missing import MOST_BROKEN, broken_up, joined, without_calibrated
from dissimilarity.comparison.of_samples import from_samples
from dissimilarity.comparison.of_sums import from_sums
from dissimilarity.comparison.outcome import Result, failed
from dissimilarity.inference.calibration import UNKNOWN, calibrate
from dissimilarity.inference.jackknife import half_width, stderr_of_influence
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross, SitePair
from dissimilarity.moments.side import Side

OUTPUT_PAIRS = [(LOGITS, LOGITS)]


def evaluate(
    measures: Sequence[Measure],
    x: Side,
    y: Side,
    cross: Cross,
    null: Cross | None = None,
    nulls: Mapping[tuple[str, SitePair], Tensor] | None = None,
    again: ReadAgain | None = None,
    null_x: Side | None = None,
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
        null_x: the side of the first model with the sequences that its samples form in the null, closed; None where
            these are whole sequences of the same unit.

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
    results |= from_sums(of_sums, x, y, cross, null, null_x or x, comparable, again)
    for measure in measures:
        if isinstance(measure, SampleMeasure):
            pair_results = from_samples(measure, x, y, null is not None, pairs_of(measure, comparable))
            results |= {(measure.label, pair): result for pair, result in pair_results}
    more_broken = _more_broken(x, nulls)
    records = []
    for pair in [*cross.pairs, *OUTPUT_PAIRS]:
        for measure in measures:
            result = results.get((measure.label, pair))
            if result is None and problems.get(pair) and not isinstance(measure, OutputMeasure):
                result = failed(measure, x, pair[0], problems[pair])
            if result is not None:
                names = {"measure": measure.label, "site_a": pair[0], "site_b": pair[1]}
                if nulls is not None and measure.crossfit and not bool(result["nulls"].isnan().any()):
                    single = f"{measure.label} has the null of one rearrangement, and so no p"
                    result["note"] = joined(result["note"], single)
                result["nulls"] = (nulls or {}).get((measure.label, pair), result["nulls"])
                result["broken"] *= more_broken
                record = names | result | _derived(measure, x, result)
                del record["null_influence"], record["forced"], record["broken"]
                records.append(record)
    return records


def _derived(measure: Measure, side: Side, result: Result) -> dict[str, Any]:
    """Return what follows from a result: dissimilarity, standard errors, and the calibrated value."""
    value, nulls, note = result["value"], result["nulls"], result["note"]
    influence, null_influence = (_of_groups(result[name], side) for name in ("influence", "null_influence"))
    n_units, has_errors = len(result["influence"]), side.stored or side.n_units > 1
    compares_samples = not (measure.by_sequence or isinstance(measure, OutputMeasure))
    broken = result["broken"] if compares_samples else 0.0
    calibration = calibrate(value, nulls, measure.identical, influence, null_influence, has_errors, broken)
    null = nulls.mean().item()
    if result["forced"]:
        calibration = UNKNOWN
    elif math.isfinite(null) and broken > MOST_BROKEN:
        note, calibration = joined(note, broken_up(measure, broken)), UNKNOWN
    elif calibration is None:
        missing = without_calibrated(measure, null, bool(null_influence.isfinite().all()))
        note, calibration = joined(note, missing), UNKNOWN
    # Groups have fewer degrees of freedom than the units that the record names.
    wider = half_width(1.0, len(influence)) / half_width(1.0, n_units)
    return {
        "dissimilarity": measure.to_dissimilarity(value),
        "stderr": stderr_of_influence(result["influence"]).item(),
        "n_units": n_units,
        "null": null,
        "calibrated": calibration.value,
        "calibrated_stderr": float(calibration.stderr * wider),
        "note": note,
    }


def _more_broken(side: Side, nulls: Mapping[tuple[str, SitePair], Tensor] | None) -> float:
    """Return how many times as many samples several circles take out of their sequences as the first one."""
    count = max(map(len, (nulls or {}).values()), default=1)
    return side.lengths.broken_in(count) / side.lengths.broken if count > 1 and side.lengths.broken else 1.0


def _of_groups(influence: Tensor, side: Side) -> Tensor:
    """Return influences of the groups of sequences within which the null rearranges them; as they are without groups.

    In the null, the samples of a sequence meet those of another one of its group.
    """
    if side.lengths.circle is not None:
        return influence
    groups = side.lengths.units.new_zeros(len(influence)).scatter_(0, side.units, side.lengths.units)
    return influence.new_zeros(side.lengths.n_units).index_add_(0, groups, influence)


def pairs_of(measure: Measure, pairs: Sequence[SitePair]) -> Sequence[SitePair]:
    """Return the pairs of sites at which a measure is computed: those given, or the models' logits."""
    return OUTPUT_PAIRS if isinstance(measure, OutputMeasure) else pairs
