"""Mean differences between stitches, with intervals over models."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dissimilarity.inference.coverage import FEWEST_MODELS
from studies.common.jackknife import Interval, jackknife

Cell = tuple[int, int, str]
"""Width, depth, site."""
Unit = tuple[str, int, int, str]
"""Family (empty for siblings), width, depth: the side of a model; then its name (for siblings, their seed)."""


@dataclass(frozen=True)
class Term:
    """One value and the independent models that it comes from."""

    units: tuple[Unit, ...]
    cell: Cell
    value: float


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference in nats per token with its 95% interval over models.

    Attributes:
        cells, positive: number of cells (width, depth, site), and of those whose mean is above 0.
    """

    cells: int = 0
    positive: int = 0

    @property
    def verdict(self) -> str:
        """Return `holds` or `reversed` if the interval excludes 0, else `open`; `no verdict` for too few models."""
        if self.models < FEWEST_MODELS:
            return "no verdict"
        return {"above": "holds", "below": "reversed", "open": "open"}[super().verdict]


def difference(terms: Sequence[Term], others: Sequence[Term] | None = None) -> Difference:
    """Return the mean of terms, minus that of others if there are any, with its interval over models.

    Means are taken in each cell and then over cells.

    Examples:
        >>> difference([Term((("", 64, 2, "0"),), (64, 2, "blocks.0.resid_post"), 0.5)]).mean
        0.5
    """
    signed = [(term, 1) for term in terms] + [(term, -1) for term in others or ()]
    signed = [(term, sign) for term, sign in signed if math.isfinite(term.value)]
    cells = {cell: place for place, cell in enumerate(dict.fromkeys(term.cell for term, _ in signed))}
    places = np.array([cells[term.cell] for term, _ in signed], int)
    values = np.array([term.value for term, _ in signed])
    positive = np.array([sign > 0 for _, sign in signed], bool)

    def by_cell(chosen: np.ndarray) -> np.ndarray:
        means = []
        for side in (chosen & positive, chosen & ~positive):
            counts = np.bincount(places[side], minlength=len(cells))
            sums = np.bincount(places[side], values[side], len(cells))
            means.append(np.divide(sums, counts, out=np.full(len(cells), np.nan), where=counts > 0))
        return means[0] if others is None else means[0] - means[1]

    def mean(chosen: np.ndarray) -> float:
        means = by_cell(chosen)
        return float(means[shared].mean()) if shared.any() else math.nan

    everything = by_cell(np.full(len(signed), True))
    shared = np.isfinite(everything)
    interval = over_models([term.units for term, _ in signed], mean)
    return Difference(**vars(interval), cells=int(shared.sum()), positive=int((everything[shared] > 0).sum()))


def over_models(units: Sequence[tuple[Unit, ...]], estimate: Callable[[np.ndarray], float]) -> Interval:
    """Return an estimate with its interval.

    Args:
        units: the models of each value.
        estimate: returns the estimate from the values that a mask chooses.
    """
    everything = np.full(len(units), True)
    with_unit: dict[tuple[Any, ...], dict[Unit, list[int]]] = {}
    for place, members in enumerate(units):
        for unit in dict.fromkeys(members):
            with_unit.setdefault(unit[:-1], {}).setdefault(unit, []).append(place)
    left_out = []
    for side in with_unit.values():
        masks = [~np.isin(np.arange(len(units)), places) for places in side.values()]
        enough = len(side) >= FEWEST_MODELS
        left_out.append(np.array([estimate(mask) for mask in masks]) if enough else np.zeros(len(side)))
    return jackknife(estimate(everything) if len(units) else math.nan, left_out)
