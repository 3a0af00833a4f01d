"""Numbers of the study `asymmetry`: differences between the two directions, their intervals, and the paper's claims."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from studies.common.resampling import BOOTSTRAPS, bootstrap_mean

Record = dict[str, Any]
Cell = tuple[int, int, str]
"""Width, depth, site."""

READINGS = {"loss_stitched": "raw loss", "penalty": "penalty", "excess": "penalty minus self"}
CRITERIA = (
    ("paper", "loss_stitched"),
    ("paper", "penalty"),
    ("task", "penalty"),
    ("task", "excess"),
    ("direct", "penalty"),
    ("direct", "excess"),
)
"""Pairs of fit and reading, the paper's first."""
KINSHIPS = ("sibling", "independent")


@dataclass(frozen=True)
class Difference:
    """A mean over pairs of models with its bootstrap interval.

    Attributes:
        mean, low, high: nats per token, with the 95 % interval; NaN for fewer than two pairs of models.
        cells, positive: number of cells (width, depth, site), and of those whose mean is above 0.
        pairs: number of pairs of models.
    """

    mean: float
    low: float
    high: float
    cells: int
    positive: int
    pairs: int

    @property
    def verdict(self) -> str:
        """Return `holds` or `reversed` if the interval excludes 0, else `open`."""
        if self.low > 0:
            return "holds"
        return "reversed" if self.high < 0 else "open"


@dataclass(frozen=True)
class Line:
    """A least-squares line of the asymmetry on the gap between the two models' own losses.

    Attributes:
        mean, low, high: asymmetry at equal losses in nats per token, with the 95 % bootstrap interval over pairs of
            models; NaN for fewer than three pairs.
        slope: nats of asymmetry per nat of gap.
    """

    mean: float
    low: float
    high: float
    slope: float


def with_self(records: Sequence[Record]) -> list[Record]:
    """Add the self-stitch penalties of both models to each record, and the penalty minus that of the back model.

    A record is matched with self-stitches of the same kind, fit, site and step.
    """
    penalties = {
        (record["back"], record["step"], record["fit"], record["kind"], record["back_site"]): record["penalty"]
        for record in records
        if record["front"] == record["back"] and record["site"] == record["back_site"]
    }

    def self_penalty(record: Record, side: str, site: str) -> float:
        key = (record[side], record["step"], record["fit"], record["kind"], record[site])
        return penalties.get(key, math.nan)

    extended = []
    for record in records:
        back, front = self_penalty(record, "back", "back_site"), self_penalty(record, "front", "site")
        extended.append({**record, "self_back": back, "self_front": front, "excess": record["penalty"] - back})
    return extended


def select(records: Iterable[Record], **values: Any) -> list[Record]:
    """Return the records with these values.

    Example:
        >>> select([{"fit": "task"}, {"fit": "direct"}], fit="task")
        [{'fit': 'task'}]
    """
    return [record for record in records if all(record[key] == value for key, value in values.items())]


def same_shape(records: Iterable[Record], fit: str) -> list[Record]:
    """Return the records of one fit between models of equal width and depth, at equal sites."""
    return [
        record
        for record in records
        if record["fit"] == fit
        and record["kind"] != "identity"
        and record["width_front"] == record["width_back"]
        and record["site"] == record["back_site"]
    ]


def cell_of(record: Record) -> Cell:
    """Return the cell of a record."""
    return record["width_back"], record["depth"], record["site"]


def layer_of(site: str) -> int:
    """Return the number of a site's block.

    Example:
        >>> layer_of("blocks.3.resid_post")
        3
    """
    return int(site.split(".")[1])


def paired_differences(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> list[Record]:
    """Return first -> second minus second -> first per pair of models, site and step, with the gap of their losses."""
    by_direction = {
        (record["front"], record["back"], record["site"], record["step"]): record
        for record in records
        if record["kinship"] == kinship
    }
    differences = []
    for (front, back, site, step), record in by_direction.items():
        reverse = by_direction.get((back, front, site, step))
        if (record["family_front"], record["family_back"]) == tuple(families) and reverse is not None:
            differences.append(
                {
                    "pair": (front, back),
                    "cell": cell_of(record),
                    "step": step,
                    "last": record["last"],
                    "difference": record[reading] - reverse[reading],
                    # The gap between the two back models is the part of a raw loss that is not due to the stitch.
                    "gap": record["loss_back"] - reverse["loss_back"],
                }
            )
    return differences


def at_equal_losses(differences: Sequence[Record]) -> Line:
    """Return the asymmetry that remains where neither model is better, from records of `paired_differences`."""
    by_pair: dict[Any, list[list[float]]] = {}
    for record in differences:
        gap, value = record["gap"], record["difference"]
        by_pair.setdefault(record["pair"], []).append([1.0, gap, gap * gap, value, gap * value])
    if len(by_pair) < 3:
        return Line(math.nan, math.nan, math.nan, math.nan)
    sums = np.array([np.sum(points, 0) for points in by_pair.values()])

    def intercept(pairs: np.ndarray, axis: int) -> np.ndarray:
        n, gaps, squares, values, products = np.moveaxis(sums[pairs].sum(axis - 1), -1, 0)
        return (squares * values - gaps * products) / (n * squares - gaps**2)

    pairs = np.arange(len(sums))
    n, gaps, squares, values, products = sums.sum(0)
    slope = (n * products - gaps * values) / (n * squares - gaps**2)
    result = stats.bootstrap((pairs,), intercept, n_resamples=BOOTSTRAPS, method="percentile", rng=0, axis=-1)
    interval = result.confidence_interval
    return Line(float(intercept(pairs, -1)), float(interval.low), float(interval.high), float(slope))


def claim_a(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more first -> second costs than second -> first."""
    differences = paired_differences(records, families, kinship, reading)
    return difference([(record["pair"], record["cell"], record["difference"]) for record in differences])


def claim_b(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more stitches within the second family cost than those within the first.

    For siblings, each model is stitched to itself. For independent models, these are different models of one family.
    """
    kind = "self" if kinship == "sibling" else "independent"
    first, second = (_within(records, family, kind) for family in families)
    shared = sorted(first.keys() & second.keys())
    return difference(
        [(seeds, cell, second[seeds, cell][reading] - first[seeds, cell][reading]) for seeds, cell in shared]
    )


def claim_c(records: Sequence[Record], families: Sequence[str], kinship: str, reading: str) -> Difference:
    """Return how much more the cheaper direction across families costs than stitches within the second family."""
    kind = "self" if kinship == "sibling" else "independent"
    within: dict[Cell, list[float]] = {}
    for (_, cell), record in _within(records, families[1], kind).items():
        within.setdefault(cell, []).append(record[reading])
    across = {
        (record["front"], record["back"], record["site"]): record
        for record in records
        if record["kinship"] == kinship and record["family_front"] != record["family_back"]
    }
    values = []
    for (front, back, site), record in across.items():
        reverse = across.get((back, front, site))
        if record["family_front"] == families[0] and reverse is not None and cell_of(record) in within:
            cheaper = min(record[reading], reverse[reading])
            values.append(((front, back), cell_of(record), cheaper - float(np.mean(within[cell_of(record)]))))
    return difference(values)


CLAIMS: dict[str, tuple[str, Callable[[Sequence[Record], Sequence[str], str, str], Difference]]] = {
    "A": ("{0} -> {1} costs more than {1} -> {0}", claim_a),
    "B": ("{1} -> {1} costs more than {0} -> {0}", claim_b),
    "C": ("both directions across families cost more than {1} -> {1}", claim_c),
}


def all_claims(records: Sequence[Record], families: Sequence[str]) -> dict[tuple[str, str, str, str], Difference]:
    """Return the difference at the end of training by (claim, kinship, fit, reading)."""
    at_end = {fit: select(same_shape(records, fit), last=True) for fit, _ in CRITERIA}
    return {
        (name, kinship, fit, reading): claim(at_end[fit], families, kinship, reading)
        for name, (_, claim) in CLAIMS.items()
        for kinship in KINSHIPS
        for fit, reading in CRITERIA
    }


def difference(values: Sequence[tuple[Any, Cell, float]]) -> Difference:
    """Return the mean of (pair of models, cell, value), with an interval over pairs.

    Cells of one pair are not independent of each other.

    Example:
        >>> difference([("pair", (64, 2, "blocks.0.resid_post"), 0.5)]).mean
        0.5
    """
    values = [value for value in values if math.isfinite(value[2])]
    by_pair, by_cell = _means(values, 0), _means(values, 1)
    low, high = bootstrap_mean(list(by_pair.values()))
    mean = float(np.mean(list(by_pair.values()))) if by_pair else math.nan
    positive = sum(value > 0 for value in by_cell.values())
    return Difference(mean, low, high, len(by_cell), positive, len(by_pair))


def _within(records: Sequence[Record], family: str, kinship: str) -> dict[tuple[tuple[int, int], Cell], Record]:
    """Return the stitches within one family by (seeds, cell)."""
    return {
        ((record["init_seed_front"], record["init_seed_back"]), cell_of(record)): record
        for record in records
        if record["kinship"] == kinship and record["family_front"] == record["family_back"] == family
    }


def _means(values: Sequence[tuple[Any, Cell, float]], key: int) -> dict[Any, float]:
    groups: dict[Any, list[float]] = {}
    for value in values:
        groups.setdefault(value[key], []).append(value[2])
    return {name: float(np.mean(members)) for name, members in groups.items()}
