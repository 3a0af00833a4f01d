"""Means, intervals and p values over models, seeds and layers, mostly by resampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dissimilarity.inference.coverage import FEWEST_MODELS

MIDDLE = (2.5, 97.5)
"""Percentiles of a 95% interval."""


@dataclass(frozen=True)
class Resamples:
    """Permutations and bootstrap draws of the same models.

    Attributes:
        permutations: (resamples, models), each row a permutation of the models.
        draws: (resamples, models), each row drawn with replacement.
    """

    permutations: np.ndarray
    draws: np.ndarray


def resamples_of(models: int, count: int, seed: int) -> Resamples:
    """Draw permutations and bootstrap samples of some models.

    Args:
        models: number of models.
        count: number of permutations, and of draws.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    permutations = np.stack([rng.permutation(models) for _ in range(count)])
    return Resamples(permutations, rng.integers(models, size=(count, models)))


def percentile_interval(resampled: np.ndarray, total: int) -> tuple[float, float]:
    """Return the middle 95% of the finite resampled values; NaN if no more than half of `total` are finite.

    Examples:
        >>> percentile_interval(np.arange(101.0), 101)
        (2.5, 97.5)
    """
    finite = resampled[np.isfinite(resampled)]
    if len(finite) <= total / 2:
        return math.nan, math.nan
    low, high = np.percentile(finite, MIDDLE)
    return float(low), float(high)


def one_sided_p(value: np.ndarray | float, permuted: np.ndarray, tolerance: float = 1e-12) -> np.ndarray:
    """Return how often permuted values reach `value`: (1 + count) / (1 + permutations), along the first axis.

    Examples:
        >>> float(one_sided_p(2.0, np.array([0.0, 1.0, 2.0])))
        0.5
    """
    return (1 + (permuted >= value - tolerance).sum(0)) / (1 + len(permuted))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the finite values and half of its 95% interval by Student's t; NaN for too few.

    Examples:
        >>> mean_interval([1.0, 2.0, 3.0, 4.0])
        (2.5, nan)
    """
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return math.nan, math.nan
    if len(values) < FEWEST_MODELS:
        return float(np.mean(values)), math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def finite_mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there are none.

    Examples:
        >>> finite_mean([1.0, math.nan, 3.0])
        2.0
    """
    array = np.asarray(values, float)
    finite = array[np.isfinite(array)]
    return float(finite.mean()) if finite.size else math.nan


def rank_correlation(x: Sequence[float], y: Sequence[float], permutations: int, min_points: int) -> tuple[float, float]:
    """Return Spearman's rho and its two-sided p value by permutation, exact if the permutations suffice.

    Args:
        x: values that are permuted.
        y: values of the same length.
        permutations: number of permutations at most.
        min_points: number of points below which the correlation is not defined.

    Returns:
        rho and p; NaN for too few points, values that are not finite, or a constant side.

    Examples:
        >>> rho, p = rank_correlation([1, 2, 3, 4], [1, 4, 9, 16], 999, min_points=4)
        >>> round(rho, 6), round(p, 6)
        (1.0, 0.083333)
    """
    if len(x) < min_points or not np.isfinite([*x, *y]).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    ranks = stats.rankdata(y)
    ranks = ranks - ranks.mean()

    def rho(permuted: np.ndarray, axis: int = -1) -> np.ndarray:
        values = np.moveaxis(permuted, axis, -1)
        values = values - values.mean(-1, keepdims=True)
        return values @ ranks / np.sqrt((values * values).sum(-1) * (ranks @ ranks))

    ranked = stats.rankdata(x)
    test = stats.permutation_test(
        (ranked,), rho, permutation_type="pairings", n_resamples=permutations, rng=0, vectorized=True
    )
    return float(rho(ranked)), float(test.pvalue)
