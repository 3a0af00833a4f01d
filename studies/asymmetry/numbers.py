"""What follows from the rows of the study `asymmetry`: differences of the two directions, intervals, claims."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]
Cell = tuple[int, int, str]
"""Width, depth, site."""

READINGS = {"loss_stitched": "raw loss", "penalty": "penalty", "excess": "penalty minus self"}
WAYS = (
    ("paper", "loss_stitched"),
    ("paper", "penalty"),
    ("task", "penalty"),
    ("task", "excess"),
    ("direct", "penalty"),
    ("direct", "excess"),
)
"""Fit and reading: the paper's way first."""
KINSHIPS = ("sibling", "independent")
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """A mean over pairs of models, with its bootstrap interval.

    Attributes:
        mean, low, high: nats per token; 95 %; NaN without at least two pairs of models.
        cells, positive: how many (width, depth, site) there are, and in how many the mean is above 0.
        pairs: pairs of models.
    """

    mean: float
    low: float
    high: float
    cells: int
    positive: int
    pairs: int

    @property
    def verdict(self) -> str:
        """`holds` or `reversed` where the interval leaves 0 on one side, else `open`."""
        if self.low > 0:
            return "holds"
        return "reversed" if self.high < 0 else "open"


@dataclass(frozen=True)
class Line:
    """The asymmetry against the gap of the two models' own losses: least squares through all points.

    Attributes:
        mean, low, high: the asymmetry at equal losses, nats per token, with its 95 % bootstrap interval over pairs of
            models; NaN without at least three pairs.
        slope: nats of asymmetry for a nat of gap.
    """

    mean: float
    low: float
    high: float
    slope: float


def with_self(rows: Sequence[Row]) -> list[Row]:
    """The rows with the self-stitch penalties of both models (same kind, fit, site and step), and the penalty less that
    of the back model."""
    kept = {
        (row["back"], row["step"], row["fit"], row["kind"], row["back_site"]): row["penalty"]
        for row in rows
        if row["front"] == row["back"] and row["site"] == row["back_site"]
    }

    def own(row: Row, side: str, site: str) -> float:
        return kept.get((row[side], row["step"], row["fit"], row["kind"], row[site]), math.nan)

    extended = []
    for row in rows:
        self_back = own(row, "back", "back_site")
        more = {"self_back": self_back, "self_front": own(row, "front", "site"), "excess": row["penalty"] - self_back}
        extended.append({**row, **more})
    return extended


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def of_main(rows: Iterable[Row], fit: str) -> list[Row]:
    """Rows of one fit between models of one width and one depth, at equal sites."""
    return [
        row
        for row in rows
        if row["fit"] == fit
        and row["kind"] != "identity"
        and row["width_front"] == row["width_back"]
        and row["site"] == row["back_site"]
    ]


def cell(row: Row) -> Cell:
    """Where a row stands."""
    return row["width_back"], row["depth"], row["site"]


def layer_of(site: str) -> int:
    """The number of a site's block."""
    return int(site.split(".")[1])


def both_ways(rows: Sequence[Row], families: Sequence[str], kinship: str, reading: str) -> list[Row]:
    """first -> second minus second -> first for each pair of models, site and step, with the gap of their losses."""
    there = {(row["front"], row["back"], row["site"], row["step"]): row for row in rows if row["kinship"] == kinship}
    found = []
    for (front, back, site, step), row in there.items():
        other = there.get((back, front, site, step))
        if (row["family_front"], row["family_back"]) == tuple(families) and other is not None:
            found.append(
                {
                    "pair": (front, back),
                    "cell": cell(row),
                    "step": step,
                    "last": row["last"],
                    "difference": row[reading] - other[reading],
                    # of the two back models: what a raw loss carries besides the stitch
                    "gap": row["loss_back"] - other["loss_back"],
                }
            )
    return found


def at_equal_losses(each: Sequence[Row]) -> Line:
    """What is left of an asymmetry where neither model is the better one, from rows of ``both_ways``."""
    by_pair: dict[Any, list[list[float]]] = {}
    for one in each:
        gap, value = one["gap"], one["difference"]
        by_pair.setdefault(one["pair"], []).append([1.0, gap, gap * gap, value, gap * value])
    if len(by_pair) < 3:
        return Line(math.nan, math.nan, math.nan, math.nan)
    sums = np.array([np.sum(points, 0) for points in by_pair.values()])

    def intercept(chosen: np.ndarray, axis: int) -> np.ndarray:
        n, gaps, squares, values, products = np.moveaxis(sums[chosen].sum(axis - 1), -1, 0)
        return (squares * values - gaps * products) / (n * squares - gaps**2)

    whole = np.arange(len(sums))
    n, gaps, squares, values, products = sums.sum(0)
    slope = (n * products - gaps * values) / (n * squares - gaps**2)
    found = stats.bootstrap((whole,), intercept, n_resamples=RESAMPLES, method="percentile", rng=0, axis=-1)
    interval = found.confidence_interval
    return Line(float(intercept(whole, -1)), float(interval.low), float(interval.high), float(slope))


def claim_a(rows: Sequence[Row], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """first -> second is dearer than second -> first."""
    return difference(
        [(each["pair"], each["cell"], each["difference"]) for each in both_ways(rows, families, kinship, reading)]
    )


def claim_b(rows: Sequence[Row], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """The second family stitches to itself more dearly than the first: models with themselves, or independent ones."""
    kind = "self" if kinship == "sibling" else "independent"
    first, second = (_within(rows, family, kind) for family in families)
    shared = sorted(first.keys() & second.keys())
    return difference(
        [(seeds, where, second[seeds, where][reading] - first[seeds, where][reading]) for seeds, where in shared]
    )


def claim_c(rows: Sequence[Row], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Both directions across are dearer than the second family's stitches to itself: the cheaper one less those."""
    kind = "self" if kinship == "sibling" else "independent"
    means: dict[Cell, list[float]] = {}
    for (_, where), row in _within(rows, families[1], kind).items():
        means.setdefault(where, []).append(row[reading])
    across = {
        (row["front"], row["back"], row["site"]): row
        for row in rows
        if row["kinship"] == kinship and row["family_front"] != row["family_back"]
    }
    found = []
    for (front, back, site), row in across.items():
        other = across.get((back, front, site))
        if row["family_front"] == families[0] and other is not None and cell(row) in means:
            cheaper = min(row[reading], other[reading])
            found.append(((front, back), cell(row), cheaper - float(np.mean(means[cell(row)]))))
    return difference(found)


CLAIMS: dict[str, tuple[str, Callable[[Sequence[Row], Sequence[str], str, str], Difference]]] = {
    "A": ("{0} -> {1} is dearer than {1} -> {0}", claim_a),
    "B": ("{1} -> {1} is dearer than {0} -> {0}", claim_b),
    "C": ("both directions across are dearer than {1} -> {1}", claim_c),
}


def all_claims(rows: Sequence[Row], families: Sequence[str]) -> dict[tuple[str, str, str, str], Difference]:
    """(claim, kinship, fit, reading) -> its difference at the end of training."""
    at_end = {fit: select(of_main(rows, fit), last=True) for fit, _ in WAYS}
    return {
        (name, kinship, fit, reading): claim(at_end[fit], families, kinship, reading)
        for name, (_, claim) in CLAIMS.items()
        for kinship in KINSHIPS
        for fit, reading in WAYS
    }


def difference(values: Sequence[tuple[Any, Cell, float]]) -> Difference:
    """The mean of (pair of models, cell, value), with an interval over pairs: cells of one pair are not independent."""
    values = [each for each in values if math.isfinite(each[2])]
    by_pair, by_cell = _means(values, 0), _means(values, 1)
    low, high = bootstrap(list(by_pair.values()))
    mean = float(np.mean(list(by_pair.values()))) if by_pair else math.nan
    positive = sum(value > 0 for value in by_cell.values())
    return Difference(mean, low, high, len(by_cell), positive, len(by_pair))


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by resampling (percentiles); NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return values[0], values[0]
    found = stats.bootstrap((np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half of its 95 % interval by Student's t; NaN for fewer than two."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return math.nan, math.nan
    if len(values) < 2:
        return float(values[0]), math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rho and its p value by permutation; NaN for fewer than four points or a constant side."""
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    rho = _spearman(x, y)
    test = stats.permutation_test(
        (np.asarray(x),),
        lambda values: _spearman(values, y),
        permutation_type="pairings",
        n_resamples=999,
        rng=0,
    )
    return rho, float(test.pvalue)


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _within(rows: Sequence[Row], family: str, kinship: str) -> dict[tuple[tuple[int, int], Cell], Row]:
    """Stitches inside one family by (seeds, cell)."""
    return {
        ((row["init_seed_front"], row["init_seed_back"]), cell(row)): row
        for row in rows
        if row["kinship"] == kinship and row["family_front"] == row["family_back"] == family
    }


def _means(values: Sequence[tuple[Any, Cell, float]], key: int) -> dict[Any, float]:
    gathered: dict[Any, list[float]] = {}
    for each in values:
        gathered.setdefault(each[key], []).append(each[2])
    return {name: float(np.mean(found)) for name, found in gathered.items()}
