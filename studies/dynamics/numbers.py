"""When each layer of a run reaches its final form, from the table of the study `dynamics`.

The run is the unit of the order of its layers. Neighboring layers move together, so that within one run any order
arises by chance far more often than among independent layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from dissimilarity.capture.sites import LOGITS
from dissimilarity.tables.curves import distinct
from studies.common.jackknife import Interval, over_units
from studies.common.resampling import finite_mean

Checkpoints = Mapping[str, Sequence[tuple[str, int]]]
"""Run -> (label in the table, step) of its checkpoints, in order."""
Maps = dict[tuple[str, str, str], np.ndarray]
"""(measure, run, other run) -> (layers, steps, other steps) dissimilarity."""


@dataclass(frozen=True)
class Arrival:
    """When a layer of a run reaches its final form.

    Attributes:
        layer: position of the layer among the sites.
        start: dissimilarity of the first checkpoint to the last.
        floor: mean dissimilarity of the last checkpoint to those of the other runs; NaN if there are none.
        null: dissimilarity of the null, averaged over checkpoints.
        half: step from which the dissimilarity to the last checkpoint stays at or below half of `start`, interpolated
            over log2(1 + step); NaN if it never changes.
        bracket: the checkpoints on both sides of `half`.
        seed: the same step for the level `floor`; NaN without one.
    """

    layer: int
    start: float
    floor: float
    null: float
    half: float
    bracket: tuple[int, int]
    seed: float


@dataclass(frozen=True)
class Order:
    """Whether lower layers arrive first.

    Attributes:
        rhos: run -> Spearman's correlation of layer and step; NaN if undefined.
        delay: mean over runs of how much later each layer arrives than the one below it, in doublings of 1 + step (the
            least-squares slope), with its interval over runs.
    """

    rhos: dict[str, float]
    delay: Interval

    @property
    def verdict(self) -> str:
        """Return `bottom-up` or `top-down`, `no order` if runs do not agree, `no verdict` for too few runs."""
        if not math.isfinite(self.delay.p):
            return "no verdict"
        return {"above": "bottom-up", "below": "top-down", "open": "no order"}[self.delay.verdict]


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        steps: run -> steps of its checkpoints.
        sites: names of the layers.
        measures: labels of the measures, the primary one first.
        maps: (measure, run, other run) -> (layers, steps, other steps) dissimilarity.
        nulls: measure -> mean dissimilarity of the null.
        arrivals: (measure, run) -> the arrival of each layer.
        orders: (measure, `half` or `seed`) -> the order of the layers.
    """

    steps: dict[str, list[int]]
    sites: list[str]
    measures: list[str]
    maps: Maps
    nulls: dict[str, float]
    arrivals: dict[tuple[str, str], list[Arrival]]
    orders: dict[tuple[str, str], Order]


def findings(table: pa.Table, checkpoints: Checkpoints, primary: str) -> Findings:
    """Compute all numbers.

    Args:
        table: table from `compare_many` at matched layers, over every two checkpoints of each run and of the first two
            runs, and the last checkpoints of every two runs.
        checkpoints: the checkpoints of each run.
        primary: label of the primary measure, which comes first.
    """
    records = [record for record in table.to_pylist() if record["site_a"] != LOGITS]
    runs = list(checkpoints)
    places = {label: (run, index) for run, points in checkpoints.items() for index, (label, _) in enumerate(points)}
    sites = list(dict.fromkeys(record["site_a"] for record in records if places[record["model_a"]][0] == runs[0]))
    measured = {record["measure"] for record in records}
    measures = [measure for measure in distinct(table, "measure") if measure in measured]
    measures.sort(key=lambda measure: measure != primary)
    lengths = {run: len(points) for run, points in checkpoints.items()}
    maps, nulls = _maps(records, sites, places, lengths, measures)
    arrivals = {}
    for measure in measures:
        for run in runs:
            floors = _floors(maps, measure, run, runs)
            steps = np.array([step for _, step in checkpoints[run]])
            to_last = maps[measure, run, run][:, :, -1]
            arrivals[measure, run] = [
                arrival(layer, to_last[layer], steps, floors[layer], finite_mean(nulls[measure, run][layer]))
                for layer in range(len(sites))
            ]
    orders = {
        (measure, key): order({run: [getattr(layer, key) for layer in arrivals[measure, run]] for run in runs})
        for measure in measures
        for key in ("half", "seed")
    }
    return Findings(
        steps={run: [step for _, step in points] for run, points in checkpoints.items()},
        sites=sites,
        measures=measures,
        maps=maps,
        nulls={
            measure: finite_mean([layer.null for run in runs for layer in arrivals[measure, run]])
            for measure in measures
        },
        arrivals=arrivals,
        orders=orders,
    )


def arrival(layer: int, to_last: np.ndarray, steps: np.ndarray, floor: float, null: float) -> Arrival:
    """Return when one layer arrives.

    Args:
        layer: position of the layer.
        to_last: dissimilarity of each checkpoint to the last.
        steps: steps of the checkpoints, ascending.
        floor: dissimilarity of the last checkpoint to that of another run, or NaN.
        null: dissimilarity of the null.
    """
    start = float(to_last[0])
    half, bracket = stays_below(to_last, steps, start / 2)
    return Arrival(layer, start, floor, null, half, bracket, stays_below(to_last, steps, floor)[0])


def stays_below(values: np.ndarray, steps: np.ndarray, level: float) -> tuple[float, tuple[int, int]]:
    """Return the step from which values stay at or below a level, and the checkpoints around it.

    Values are interpolated over log2(1 + step). The step is NaN for a level that is not above 0.

    Examples:
        >>> stays_below(np.array([1.0, 0.0]), np.array([0, 3]), 0.5)
        (1.0, (0, 3))
    """
    if not level > 0 or not np.isfinite(values).all():
        return math.nan, (int(steps[0]), int(steps[-1]))
    above = np.nonzero(values > level)[0]
    if not len(above):
        return float(steps[0]), (int(steps[0]), int(steps[0]))
    last = int(above[-1])
    if last == len(values) - 1:
        return math.nan, (int(steps[last]), int(steps[last]))
    before, after = np.log2(1.0 + steps[last]), np.log2(1.0 + steps[last + 1])
    share = (values[last] - level) / (values[last] - values[last + 1])
    return float(2 ** (before + share * (after - before)) - 1), (int(steps[last]), int(steps[last + 1]))


def order(arrivals: Mapping[str, Sequence[float]]) -> Order:
    """Test over runs whether lower layers arrive first.

    Args:
        arrivals: run -> the step at which each layer arrives.

    Examples:
        >>> round(order({"a": [1, 2, 4, 8, 16]}).rhos["a"], 6)
        1.0
    """
    ordered = {run: steps for run, steps in arrivals.items() if len(steps) > 2 and np.isfinite(steps).all()}
    # Correlations of few layers are mostly near -1 or 1, which the t test does not suit. Slopes are not.
    slopes = [np.polyfit(range(len(steps)), np.log2(1 + np.array(steps)), 1)[0] for steps in ordered.values()]
    return Order({run: _rho(ordered.get(run, ())) for run in arrivals}, over_units(slopes))


def _rho(steps: Sequence[float]) -> float:
    """Return Spearman's correlation of layer and step; NaN if the steps are equal or there are none."""
    if not len(steps) or np.ptp(steps) == 0:
        return math.nan
    return float(stats.spearmanr(range(len(steps)), steps)[0])  # pyright: ignore[reportArgumentType]


def _floors(maps: Maps, measure: str, run: str, runs: Sequence[str]) -> np.ndarray:
    """Return the mean dissimilarity of the last checkpoint of a run to those of the others, at each layer."""
    pairs = [(run, other) if (measure, run, other) in maps else (other, run) for other in runs if other != run]
    last = [maps[measure, *pair][:, -1, -1] for pair in pairs]
    return np.mean(last, 0) if last else np.full(len(maps[measure, run, run]), np.nan)


def _maps(
    records: Sequence[Mapping[str, Any]],
    sites: Sequence[str],
    places: Mapping[str, tuple[str, int]],
    lengths: Mapping[str, int],
    measures: Sequence[str],
) -> tuple[Maps, dict[tuple[str, str], np.ndarray]]:
    """Return the step x step maps of each layer, and the dissimilarity of the null for each run with itself."""
    runs = list(lengths)
    pairs = list(combinations_with_replacement(runs, 2))
    maps = {
        (measure, a, b): np.full((len(sites), lengths[a], lengths[b]), np.nan) for measure in measures for a, b in pairs
    }
    nulls = {(measure, run): np.full_like(maps[measure, run, run], np.nan) for measure in measures for run in runs}
    for record in records:
        (run_a, i), (run_b, j) = places[record["model_a"]], places[record["model_b"]]
        layer, value = sites.index(record["site_a"]), record["dissimilarity"]
        values = maps[record["measure"], run_a, run_b]
        values[layer, i, j] = value
        if run_a == run_b:
            values[layer, j, i] = value
            if record["calibrated"] != 1:
                nulls[record["measure"], run_a][layer, i, j] = value / (1 - record["calibrated"])
    for (_, a, b), values in maps.items():
        if a == b:
            values[:, np.arange(values.shape[1]), np.arange(values.shape[1])] = 0
    return maps, nulls
