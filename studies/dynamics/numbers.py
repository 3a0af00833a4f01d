"""When each layer of a run reaches its final form, from the table of the study `dynamics`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dissimilarity.capture.sites import LOGITS
from dissimilarity.tables.curves import distinct
from studies.common.resampling import finite_mean, rank_correlation

PERMUTATIONS = 9999
LEVEL = 0.05

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
        floor: dissimilarity of the last checkpoint to that of another run; NaN if there is none.
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
        rho: Spearman's correlation of layer and step; NaN if undefined.
        p: two-sided p value by permutation of the layers.
        layers: number of layers.
    """

    rho: float
    p: float
    layers: int

    @property
    def verdict(self) -> str:
        """Return `bottom-up` or `top-down`, or `no order` if it does not differ from chance."""
        if not self.p < LEVEL:
            return "no order"
        return "bottom-up" if self.rho > 0 else "top-down"


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        steps: run -> steps of its checkpoints.
        sites: names of the layers.
        measures: labels of the measures.
        maps: (measure, run, other run) -> (layers, steps, other steps) dissimilarity.
        nulls: measure -> mean dissimilarity of the null.
        arrivals: (measure, run) -> the arrival of each layer.
        orders: (measure, run, `half` or `seed`) -> the order of the layers.
    """

    steps: dict[str, list[int]]
    sites: list[str]
    measures: list[str]
    maps: Maps
    nulls: dict[str, float]
    arrivals: dict[tuple[str, str], list[Arrival]]
    orders: dict[tuple[str, str, str], Order]


def findings(table: pa.Table, checkpoints: Checkpoints) -> Findings:
    """Compute all numbers.

    Args:
        table: table from `compare_many` at matched layers, over every two checkpoints of each run and of two runs.
        checkpoints: the checkpoints of one run or two.
    """
    records = [record for record in table.to_pylist() if record["site_a"] != LOGITS]
    runs = list(checkpoints)
    places = {label: (run, index) for run, points in checkpoints.items() for index, (label, _) in enumerate(points)}
    sites = list(dict.fromkeys(record["site_a"] for record in records if places[record["model_a"]][0] == runs[0]))
    measured = {record["measure"] for record in records}
    measures = [measure for measure in distinct(table, "measure") if measure in measured]
    lengths = {run: len(points) for run, points in checkpoints.items()}
    maps, nulls = _maps(records, sites, places, lengths, measures)
    arrivals, orders = {}, {}
    for measure in measures:
        for run in runs:
            other = next((name for name in runs if name != run), None)
            floors = np.full(len(sites), np.nan) if other is None else _last(maps, measure, run, other)
            steps = np.array([step for _, step in checkpoints[run]])
            to_last = maps[measure, run, run][:, :, -1]
            arrivals[measure, run] = [
                arrival(layer, to_last[layer], steps, floors[layer], finite_mean(nulls[measure, run][layer]))
                for layer in range(len(sites))
            ]
            for key in ("half", "seed"):
                orders[measure, run, key] = order([getattr(layer, key) for layer in arrivals[measure, run]])
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

    Example:
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


def order(arrivals: Sequence[float]) -> Order:
    """Test whether lower layers arrive first, by permuting the layers; exact for up to seven layers.

    Example:
        >>> order([1, 2, 4, 8, 16]).verdict
        'bottom-up'
    """
    rho, p = rank_correlation(arrivals, range(len(arrivals)), PERMUTATIONS, min_points=3)
    return Order(rho, p, len(arrivals))


def smallest_p(layers: int) -> float:
    """Return the smallest two-sided p value that this number of layers can give.

    Example:
        >>> smallest_p(4)
        0.08333333333333333
    """
    return 2 / math.factorial(layers)


def _last(maps: Maps, measure: str, run: str, other: str) -> np.ndarray:
    """Return the dissimilarity of the last checkpoints of two runs at each layer of the first."""
    if (measure, run, other) in maps:
        return maps[measure, run, other][:, -1, -1]
    return maps[measure, other, run][:, -1, -1]


def _maps(
    records: Sequence[Mapping[str, Any]],
    sites: Sequence[str],
    places: Mapping[str, tuple[str, int]],
    lengths: Mapping[str, int],
    measures: Sequence[str],
) -> tuple[Maps, dict[tuple[str, str], np.ndarray]]:
    """Return the step x step maps of each layer, and the dissimilarity of the null for each run with itself."""
    runs = list(lengths)
    pairs = [(run, run) for run in runs] + ([(runs[0], runs[1])] if len(runs) > 1 else [])
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
