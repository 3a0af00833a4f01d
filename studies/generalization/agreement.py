"""Do distances between models tell how they generalize? Agreement of distances with the truth, by four statistics.

    ari       adjusted Rand index of the groups that were found with the true ones: 1 = the same, 0 = chance
    auc       how often two models of different groups are farther apart than two of one group: 0.5 = chance
    spearman  rank correlation of the distance of two models with the gap between their accuracies (Ding et al. 2021)
    kendall   the same by Kendall's tau-b

Pairs that share a model are not independent, so p values come from permuting models, not pairs (Mantel's test), and
intervals from drawing models with replacement, where a model is not met by itself; the groups found stay as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 499
STATISTICS = ("ari", "auc", "spearman", "kendall")


@dataclass(frozen=True)
class Agreement:
    """One statistic; NaN where it is not defined.

    Attributes:
        value: of the models as they are.
        low, high: 95 % bootstrap interval over models.
        p: one-sided, how often permuted models reach the value; 1/500 at least.
        chance: mean over permutations.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    chance: float = math.nan

    @property
    def mean(self) -> float:
        """The value, as the words of intervals call it."""
        return self.value


def agreement(
    distances: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray,
    accuracy: np.ndarray,
    statistics: Sequence[str] = STATISTICS,
    seed: int = 0,
) -> dict[str, Agreement]:
    """Each statistic with its p value and interval.

    Args:
        distances: (models, models), symmetric.
        found: (models,) group of each by the distances, as `groups_of` numbers them.
        truth: (models,) true group, -1 for a model of none, which then counts for the correlations alone.
        accuracy: (models,) out of distribution, 0 to 1.
        statistics: which.
        seed: of permutations and draws.
    """
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(truth)) for _ in range(DRAWS)])
    draws = rng.integers(len(truth), size=(DRAWS, len(truth)))
    return {
        name: _tested(name, distances, np.asarray(found), np.asarray(truth), np.asarray(accuracy), orders, draws)
        for name in statistics
    }


def _tested(
    name: str,
    distances: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray,
    accuracy: np.ndarray,
    orders: np.ndarray,
    draws: np.ndarray,
) -> Agreement:
    every = np.arange(len(truth))
    value = statistic(name, distances, found, truth, accuracy, every)
    if math.isnan(value):
        return Agreement()
    by_chance = np.array([statistic(name, distances, found, truth[each], accuracy[each], every) for each in orders])
    p = (1 + (by_chance >= value - 1e-12).sum()) / (1 + len(orders))
    drawn = np.array([statistic(name, distances, found, truth, accuracy, draw) for draw in draws])
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) > len(drawn) / 2 else (math.nan, math.nan)
    return Agreement(value, float(low), float(high), float(p), float(np.nanmean(by_chance)))


def statistic(
    name: str, distances: np.ndarray, found: np.ndarray, truth: np.ndarray, accuracy: np.ndarray, drawn: np.ndarray
) -> float:
    """One statistic over the pairs of different models out of those drawn; NaN where it is not defined.

    Without two true groups, or two values, it is not.
    """
    if name in ("ari", "auc"):
        drawn = drawn[truth[drawn] >= 0]
    first, second = np.triu_indices(len(drawn), 1)
    a, b = drawn[first], drawn[second]
    a, b = a[a != b], b[a != b]
    across = truth[a] != truth[b]
    if name in ("ari", "auc") and not across.any():
        return math.nan
    if name == "ari":
        groups = _apart(found)
        return _rand(groups[a] == groups[b], ~across)
    if name == "auc":
        return _auc(distances[a, b], across)
    return _correlation(name, distances[a, b], np.abs(accuracy[a] - accuracy[b]))


def _auc(far: np.ndarray, across: np.ndarray) -> float:
    """Share of (pair across, pair within) of which the first is farther, ties half (Mann and Whitney)."""
    count = int(across.sum())
    if not 0 < count < len(across):
        return math.nan
    ranks = stats.rankdata(far)
    return float((ranks[across].sum() - count * (count + 1) / 2) / (count * (len(across) - count)))


def _correlation(name: str, far: np.ndarray, gaps: np.ndarray) -> float:
    if len(far) < 3 or np.ptp(far) == 0 or np.ptp(gaps) == 0:
        return math.nan
    if name == "kendall":
        return float(stats.kendalltau(far, gaps)[0])  # pyright: ignore[reportArgumentType]
    return float(np.corrcoef(stats.rankdata(far), stats.rankdata(gaps))[0, 1])


def _rand(together: np.ndarray, truly: np.ndarray) -> float:
    """The adjusted Rand index from pairs: whether two models are in one group, as found and in truth."""
    both, neither = (together & truly).sum(), (~together & ~truly).sum()
    only, missed = (together & ~truly).sum(), (~together & truly).sum()
    below = (both + missed) * (missed + neither) + (both + only) * (only + neither)
    return float(2 * (both * neither - missed * only) / below) if below else math.nan


def _apart(found: np.ndarray) -> np.ndarray:
    """Groups in which models that stand alone are groups of their own."""
    groups = found.copy()
    groups[found < 0] = found.max() + 1 + np.arange((found < 0).sum())
    return groups
