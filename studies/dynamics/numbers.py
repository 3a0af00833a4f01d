"""When each layer of a run reaches its final form, from the table of the study `dynamics`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from dissimilarity.capture.sites import LOGITS
from dissimilarity.tables.curves import distinct

PERMUTATIONS = 9999
LEVEL = 0.05

Steps = Mapping[str, Sequence[tuple[str, int]]]
"""Run -> (label in the table, step) of its checkpoints, in order."""


@dataclass(frozen=True)
class Arrival:
    """When a layer of a run reaches its final form.

    Attributes:
        layer: its place among the sites.
        start: dissimilarity of the first checkpoint to the last one.
        floor: that of the last one to another run's, NaN where there is no other.
        null: of the null, mean over checkpoints.
        half: the step from which the dissimilarity to the last checkpoint stays below half of `start`, on a straight
            line between checkpoints in log2(1 + step); NaN where it starts at the null's level of 0.
        bracket: the checkpoints on both sides of it.
        seed: likewise below `floor`; NaN without one.
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
        rho: Spearman's correlation of layer and step over the layers; NaN where it is not defined.
        p: two-sided, over permutations of the layers.
        layers: how many.
    """

    rho: float
    p: float
    layers: int

    @property
    def verdict(self) -> str:
        """`bottom-up`, `top-down`, or `no order` where chance would do as well."""
        if not self.p < LEVEL:
            return "no order"
        return "bottom-up" if self.rho > 0 else "top-down"


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        steps: run -> steps of its checkpoints.
        sites: names of the layers.
        measures: as in the table.
        maps: (measure, run, other run) -> (layers, steps, other steps).
        nulls: measure -> mean dissimilarity of the null.
        arrivals: (measure, run) -> one a layer.
        orders: (measure, run, `half` or `seed`) -> whether bottom-up.
    """

    steps: dict[str, list[int]]
    sites: list[str]
    measures: list[str]
    maps: dict[tuple[str, str, str], np.ndarray]
    nulls: dict[str, float]
    arrivals: dict[tuple[str, str], list[Arrival]]
    orders: dict[tuple[str, str, str], Order]


def findings(table: pa.Table, checkpoints: Steps) -> Findings:
    """All numbers.

    Args:
        table: of `compare_many` at matched layers, over every two checkpoints of each run and of two runs.
        checkpoints: of one run or of two.
    """
    rows = [row for row in table.to_pylist() if row["site_a"] != LOGITS]
    runs = list(checkpoints)
    place = {label: (run, index) for run, of in checkpoints.items() for index, (label, _) in enumerate(of)}
    sites = list(dict.fromkeys(row["site_a"] for row in rows if place[row["model_a"]][0] == runs[0]))
    measures = [measure for measure in distinct(table, "measure") if any(row["measure"] == measure for row in rows)]
    lengths = {run: len(of) for run, of in checkpoints.items()}
    maps, nulls = _maps(rows, sites, place, lengths, measures)
    arrivals, orders = {}, {}
    for measure in measures:
        for run in runs:
            steps = np.array([step for _, step in checkpoints[run]])
            own = maps[measure, run, run]
            other = next((name for name in runs if name != run), None)
            arrivals[measure, run] = [
                arrival(
                    layer,
                    own[layer, :, -1],
                    steps,
                    math.nan if other is None else _last(maps, measure, run, other)[layer],
                    _mean(nulls[measure, run][layer]),
                )
                for layer in range(len(sites))
            ]
            for which in ("half", "seed"):
                orders[measure, run, which] = order([getattr(each, which) for each in arrivals[measure, run]])
    mean = {measure: _mean(np.array([a.null for run in runs for a in arrivals[measure, run]])) for measure in measures}
    return Findings(
        steps={run: [step for _, step in of] for run, of in checkpoints.items()},
        sites=sites,
        measures=measures,
        maps=maps,
        nulls=mean,
        arrivals=arrivals,
        orders=orders,
    )


def arrival(layer: int, to_last: np.ndarray, steps: np.ndarray, floor: float, null: float) -> Arrival:
    """When one layer arrives.

    Args:
        layer: its place.
        to_last: dissimilarity of each checkpoint to the last.
        steps: of the checkpoints, ascending.
        floor: dissimilarity of the last to that of another run, or NaN.
        null: of the null.
    """
    start = float(to_last[0])
    half, bracket = stays_below(to_last, steps, start / 2)
    return Arrival(layer, start, floor, null, half, bracket, stays_below(to_last, steps, floor)[0])


def stays_below(values: np.ndarray, steps: np.ndarray, level: float) -> tuple[float, tuple[int, int]]:
    """The step from which values stay at a level or below, and the checkpoints around it.

    Between two checkpoints the values go on a straight line over log2(1 + step). NaN for a level that is not above 0.
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
    """Whether lower layers arrive first; a test by permuting the layers, exact for up to seven of them."""
    values = np.asarray(arrivals, float)
    layers = len(values)
    if layers < 3 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return Order(math.nan, math.nan, layers)
    ranks, places = stats.rankdata(values), np.arange(layers) - (layers - 1) / 2

    def rho(permuted: np.ndarray, axis: int = -1) -> np.ndarray:
        of = np.moveaxis(permuted, axis, -1)
        of = of - of.mean(-1, keepdims=True)
        return of @ places / np.sqrt((of * of).sum(-1) * (places @ places))

    test = stats.permutation_test(
        (ranks,), rho, permutation_type="pairings", n_resamples=PERMUTATIONS, rng=0, vectorized=True
    )
    return Order(float(rho(ranks)), float(test.pvalue), layers)


def smallest_p(layers: int) -> float:
    """The smallest two-sided p that so many layers can give."""
    return 2 / math.factorial(layers)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _last(maps: Mapping[tuple[str, str, str], np.ndarray], measure: str, run: str, other: str) -> np.ndarray:
    """Dissimilarity of the last checkpoints of two runs at each layer of the first."""
    if (measure, run, other) in maps:
        return maps[measure, run, other][:, -1, -1]
    return maps[measure, other, run][:, -1, -1]


def _maps(
    rows: Sequence[Mapping[str, Any]],
    sites: Sequence[str],
    place: Mapping[str, tuple[str, int]],
    lengths: Mapping[str, int],
    measures: Sequence[str],
) -> tuple[dict[tuple[str, str, str], np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """Step x step maps of each layer, and the nulls' dissimilarities of each run with itself."""
    runs = list(lengths)
    pairs = [(run, run) for run in runs] + ([(runs[0], runs[1])] if len(runs) > 1 else [])
    maps = {
        (measure, a, b): np.full((len(sites), lengths[a], lengths[b]), np.nan) for measure in measures for a, b in pairs
    }
    nulls = {(measure, run): np.full_like(maps[measure, run, run], np.nan) for measure in measures for run in runs}
    for row in rows:
        (run_a, i), (run_b, j) = place[row["model_a"]], place[row["model_b"]]
        layer, value = sites.index(row["site_a"]), row["dissimilarity"]
        of = maps[row["measure"], run_a, run_b]
        of[layer, i, j] = value
        if run_a == run_b:
            of[layer, j, i] = value
            if row["calibrated"] != 1:
                nulls[row["measure"], run_a][layer, i, j] = value / (1 - row["calibrated"])
    for (_, a, b), of in maps.items():
        if a == b:
            of[:, np.arange(of.shape[1]), np.arange(of.shape[1])] = 0
    return maps, nulls
