"""Intervals over models: each model is left out in turn, and what changes is how much models differ.

Pairs of models, layers and steps share models, so none of them is independent of the others. The variance of an
estimate is that of the delete-one jackknife, summed over the sides of a comparison (two families, the sizes), and
Student's t has Satterthwaite's degrees of freedom. For a mean over the models of one side this is the one-sample t
test, for a difference between two sides Welch's test.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dissimilarity.inference.coverage import FEWEST_MODELS

LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval over models; NaN if there is none.

    Attributes:
        mean: the estimate.
        low, high: ends of the interval.
        p: two-sided p value for 0.
        models: number of models on the smallest side; 0 if unknown.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    models: int = 0

    @property
    def verdict(self) -> str:
        """Return `above` or `below` if the interval excludes 0, else `open`."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "open"


def jackknife(value: float, left_out: Iterable[np.ndarray]) -> Interval:
    """Return the interval of an estimate.

    Args:
        value: the estimate.
        left_out: for each side, the estimate without each of its models in turn.

    Returns:
        The interval; without one for fewer than `FEWEST_MODELS` models on a side, an estimate that some draw does not
        have, or models that do not differ at all.

    Examples:
        >>> values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> interval = jackknife(3.0, [np.array([np.delete(values, i).mean() for i in range(5)])])
        >>> round(interval.low, 3), round(interval.high, 3)
        (1.037, 4.963)
    """
    sides = [np.asarray(side, float) for side in left_out]
    counts = np.array([len(side) for side in sides])
    smallest = int(counts.min()) if sides else 0
    if smallest < FEWEST_MODELS or not all(np.isfinite(side).all() for side in sides):
        return Interval(value, models=smallest)
    variances = np.array([(len(side) - 1) * side.var() for side in sides])
    total = variances.sum()
    if total <= (1e-12 * value) ** 2:
        return Interval(value, models=smallest)
    freedom = total**2 / (variances**2 / (counts - 1)).sum()
    stderr = math.sqrt(total)
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * stderr
    return Interval(value, value - half, value + half, float(2 * stats.t.sf(abs(value) / stderr, freedom)), smallest)


def over_units(values: Sequence[float]) -> Interval:
    """Return the mean of one value per model with its interval by the one-sample t test.

    Examples:
        >>> over_units([1.0, 2.0, 3.0]).models
        3
    """
    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < FEWEST_MODELS:
        return Interval(mean, models=count)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, float(mean == 0), count)
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(1 - LEVEL)
    return Interval(mean, float(low), float(high), float(test.pvalue), count)  # pyright: ignore


def no_interval(models: int) -> str:
    """Say why there is no interval.

    Examples:
        >>> no_interval(3)
        '3 seeds: no interval'
    """
    return f"{models} seed{'' if models == 1 else 's'}: no interval"
