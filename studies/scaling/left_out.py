"""Values with every model left out in turn: the first entry of an array has all models, each other lacks one."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
from scipy import stats

from studies.common.jackknife import Interval, jackknife

SizePair = tuple[str, str]
LeftOut = dict[SizePair, np.ndarray]
"""Two sizes -> (1 + models,)."""


def without_each(counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return which models of each size are there: (1 + models, models of the size).

    Args:
        counts: size -> number of its models.

    Examples:
        >>> without_each({"a": 2, "b": 1})["a"].tolist()
        [[True, True], [False, True], [True, False], [True, True]]
    """
    total, start, present = sum(counts.values()), 1, {}
    for name, count in counts.items():
        present[name] = np.full((1 + total, count), True)
        present[name][start + np.arange(count), np.arange(count)] = False
        start += count
    return present


def over_pairs(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the mean over the pairs of models that are there and have a value, without each model in turn.

    Args:
        matrix: (models of one size, models of another), NaN where two models are not a pair.
        first: from `without_each`, for the rows.
        second: the same for the columns.
    """
    there = first[:, :, None] & second[:, None, :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no pair is left
        return np.nanmean(np.where(there, matrix, np.nan), (1, 2))


def interval_of(values: np.ndarray, sizes: Iterable[str], present: Mapping[str, np.ndarray]) -> Interval:
    """Return the interval of a value over the models of the sizes that it depends on.

    Args:
        values: (1 + models,).
        sizes: these sizes.
        present: from `without_each`.
    """
    sides = [values[~present[name].all(1)] for name in dict.fromkeys(sizes)]
    return jackknife(float(values[0]), sides)


def excess_of(values: LeftOut) -> LeftOut:
    """Return the share of the similarity of seeds that two sizes lack: 0 = as similar as seeds are.

    It is 1 - s(a, b) / sqrt(s(a, a) s(b, b)) for similarities s = 1 - dissimilarity. What models of one size add of
    their own, and what a narrow one cannot show of a common representation, lowers similarities to all models by the
    same factor, in s(a, b) as in the floors. So one representation seen through random projections has no excess at
    any ratio of widths. This is exact for cosines such as CKA; Spearman (1904) called it the correction for
    attenuation. It is NaN where a similarity is not above 0.

    Examples:
        >>> values = {("a", "a"): np.array([0.36]), ("a", "b"): np.array([0.52]), ("b", "b"): np.array([0.64])}
        >>> excess_of(values)[("a", "b")].round(9)
        array([0.])
    """
    similar = {pair: np.where(value < 1, 1 - value, np.nan) for pair, value in values.items()}
    excess = {}
    for (first, second), between in similar.items():
        floors = similar[first, first] * similar[second, second]
        if first != second and np.isfinite(floors[0]):
            excess[first, second] = 1 - between / np.sqrt(floors)
    return excess


def slope(excess: LeftOut, doublings: Mapping[SizePair, float]) -> np.ndarray:
    """Return the least-squares slope through 0 of the excess on the doublings, over the pairs of sizes in both."""
    pairs = [pair for pair in excess if pair in doublings]
    x = np.array([doublings[pair] for pair in pairs])[:, None]
    square = (x * x).sum()
    if not square:
        return np.full(1, np.nan)
    return (x * np.stack([excess[pair] for pair in pairs])).sum(0) / square


def rank_correlation(values: Mapping[SizePair, float], others: Mapping[SizePair, float]) -> float:
    """Return Spearman's correlation over pairs of sizes; NaN for fewer than four pairs or a constant side."""
    x, y = ([side[pair] for pair in values] for side in (values, others))
    if len(x) < 4 or not np.isfinite([*x, *y]).all() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y)[0])  # pyright: ignore[reportArgumentType]
