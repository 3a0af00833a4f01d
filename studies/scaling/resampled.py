"""Values with their bootstrap resamples: the first entry of an array is the value, the others are resamples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from studies.common.resampling import percentile_interval

RESAMPLES = 2000

Resampled = dict[tuple[str, str], np.ndarray]
"""Two sizes -> (1 + resamples,)."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval; NaN if there is none."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    @property
    def verdict(self) -> str:
        """Return `above` or `below` if the interval excludes 0, else `open`."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "open"


def interval_of(values: np.ndarray) -> Interval:
    """Return the value and the middle 95 % of its resamples; no interval if most are missing or all are equal."""
    resampled = values[1:]
    finite = resampled[np.isfinite(resampled)]
    if not len(finite) or np.ptp(finite) == 0:
        return Interval(float(values[0]))
    return Interval(float(values[0]), *percentile_interval(resampled, len(values)))


def excess_of(values: Resampled) -> Resampled:
    """Return by how much two sizes differ more than their seeds: the value minus the mean of the floors that exist.

    Example:
        >>> values = {("a", "a"): np.array([1.0]), ("a", "b"): np.array([3.0]), ("b", "b"): np.array([np.nan])}
        >>> excess_of(values)
        {('a', 'b'): array([2.])}
    """
    excess = {}
    for (first, second), pair in values.items():
        floors = np.stack([values[first, first], values[second, second]])
        finite = floors[np.isfinite(floors[:, 0])]
        if first != second and len(finite):
            excess[first, second] = pair - finite.mean(0)
    return excess


def slope(excess: Resampled, doublings: Mapping[tuple[str, str], float]) -> np.ndarray:
    """Return the least-squares slope through 0 of the excess on the doublings, over the pairs of sizes in both."""
    pairs = [pair for pair in excess if pair in doublings]
    if not pairs:
        return np.full(1 + RESAMPLES, np.nan)
    x = np.array([doublings[pair] for pair in pairs])[:, None]
    y = np.stack([excess[pair] for pair in pairs])
    square = (x * x).sum()
    return (x * y).sum(0) / square if square else np.full(1 + RESAMPLES, np.nan)


def rank_correlations(values: Resampled, others: Resampled) -> np.ndarray:
    """Return Spearman's correlation over pairs of sizes for each resample; NaN for fewer than four pairs."""
    if len(values) < 4:
        return np.full(1 + RESAMPLES, np.nan)
    x, y = (stats.rankdata(np.stack([side[pair] for pair in values]), axis=0) for side in (values, others))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.full(len(scale), np.nan), where=scale > 0)
