"""Do distances between models predict how they generalize? Agreement of distances with the truth, by four statistics.

    ari       adjusted Rand index of the clusters and the reference groups: 1 = the same, 0 = chance
    auc       how often two models of different groups are farther apart than two of one group: 0.5 = chance
    spearman  rank correlation of the distance of two models with the gap between their accuracies (Ding et al. 2021)
    kendall   the same by Kendall's tau-b

Pairs that share a model are not independent. Therefore p values come from permuting models rather than pairs (Mantel's
test), and intervals from drawing models with replacement, where a model does not form a pair with itself; the clusters
stay as they are. Of many measures, layers and steps some agree by chance, so p values are adjusted over all of them
(Benjamini and Hochberg 1995).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from dissimilarity.inference.coverage import FEWEST_MODELS
from studies.common.resampling import Resamples, one_sided_p, percentile_interval, resamples_of

DRAWS = 499
STATISTICS = ("ari", "auc", "spearman", "kendall")


@dataclass(frozen=True)
class Agreement:
    """One statistic; NaN if undefined.

    Attributes:
        value: the statistic of the models as they are.
        low, high: 95% bootstrap interval over models.
        p: one-sided, how often permuted models reach the value; at least 1/500. NaN for too few models.
        chance: mean over permutations.
        adjusted: p over all measures, layers and steps (false discovery rate).
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    chance: float = math.nan
    adjusted: float = math.nan


@dataclass(frozen=True)
class Evidence:
    """What a statistic compares.

    Attributes:
        distances: (models, models), symmetric.
        clusters: (models,) cluster of each model by the distances, as `find_clusters` numbers them.
        truth: (models,) reference group; -1 for none, for a model that only the correlations include.
        accuracy: (models,) out of distribution, 0 to 1.
    """

    distances: np.ndarray
    clusters: np.ndarray
    truth: np.ndarray
    accuracy: np.ndarray


def agreement(evidence: Evidence, statistics: Sequence[str] = STATISTICS, seed: int = 0) -> dict[str, Agreement]:
    """Return each statistic with its p value and interval; without them for fewer than five models per group.

    Args:
        evidence: distances, clusters and the truth.
        statistics: names of the statistics.
        seed: seed of permutations and draws.
    """
    resamples = resamples_of(len(evidence.truth), DRAWS, seed)
    return {name: _tested(name, evidence, resamples) for name in statistics}


def _tested(name: str, evidence: Evidence, resamples: Resamples) -> Agreement:
    value = statistic(name, evidence)
    if math.isnan(value) or _smallest_side(name, evidence) < FEWEST_MODELS:
        return Agreement(value)
    permuted = permuted_statistics(name, evidence, resamples.permutations)
    low, high = percentile_interval(drawn_statistics(name, evidence, resamples.draws), len(resamples.draws))
    return Agreement(value, low, high, float(one_sided_p(value, permuted)), float(np.nanmean(permuted)))


def _smallest_side(name: str, evidence: Evidence) -> int:
    """Return the number of models in the smallest group; correlations have no groups, so all models count."""
    if name not in ("ari", "auc"):
        return len(evidence.truth)
    return int(np.unique(evidence.truth[evidence.truth >= 0], return_counts=True)[1].min(initial=len(evidence.truth)))


def statistic(name: str, evidence: Evidence) -> float:
    """Return one statistic over the pairs of models; NaN without two reference groups, or without two values.

    Examples:
        >>> far = np.array([[0, 1, 5, 5], [1, 0, 5, 5], [5, 5, 0, 1], [5, 5, 1, 0]])
        >>> groups = np.array([0, 0, 1, 1])
        >>> statistic("ari", Evidence(far, groups, groups, groups * 0.5))
        1.0
    """
    return float(drawn_statistics(name, evidence, np.arange(len(evidence.truth))[None])[0])


def permuted_statistics(name: str, evidence: Evidence, permutations: np.ndarray) -> np.ndarray:
    """Return the statistic for each permutation of the truth and accuracy of the models: (permutations,)."""
    first, second = np.triu_indices(len(evidence.truth), 1)
    if name == "kendall":
        return np.array([statistic(name, _permuted(evidence, order)) for order in permutations])
    if name in ("ari", "auc"):
        return _of_groups(name, evidence, evidence.truth[permutations], np.ones((1, len(first))))
    ranks = np.zeros(evidence.distances.shape)
    ranks[first, second] = stats.rankdata(np.abs(evidence.accuracy[first] - evidence.accuracy[second]))
    ranks += ranks.T
    distances = stats.rankdata(evidence.distances[first, second])
    gaps = ranks[permutations[:, first], permutations[:, second]]
    return _correlations(distances[None], gaps, np.ones((1, len(first))))


def drawn_statistics(name: str, evidence: Evidence, draws: np.ndarray) -> np.ndarray:
    """Return the statistic over the pairs of different models in each draw of models with replacement: (draws,)."""
    first, second = np.triu_indices(len(evidence.truth), 1)
    counts = (draws[:, :, None] == np.arange(len(evidence.truth))).sum(1)
    weights = counts[:, first] * counts[:, second]
    if name in ("ari", "auc"):
        return _of_groups(name, evidence, evidence.truth[None], weights)
    distances, gaps = evidence.distances[first, second], np.abs(evidence.accuracy[first] - evidence.accuracy[second])
    if name == "spearman":
        return _correlations(_midranks(distances, weights), _midranks(gaps, weights), weights)
    drawn = (np.repeat(np.arange(len(first)), row) for row in weights)
    return np.array([_kendall(distances[pairs], gaps[pairs]) for pairs in drawn])


def adjusted_over(agreements: Sequence[Agreement]) -> list[Agreement]:
    """Return the agreements with p values adjusted over all of them that have one."""
    adjusted = np.array([agreement.p for agreement in agreements])
    tested = np.isfinite(adjusted)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(adjusted[tested])
    return [replace(agreement, adjusted=float(p)) for agreement, p in zip(agreements, adjusted, strict=True)]


def _permuted(evidence: Evidence, order: np.ndarray) -> Evidence:
    """Give the models the truth and accuracy of others."""
    return Evidence(evidence.distances, evidence.clusters, evidence.truth[order], evidence.accuracy[order])


def _of_groups(name: str, evidence: Evidence, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how well the distances or clusters agree with reference groups; NaN without two groups.

    Args:
        name: ari or auc.
        evidence: the distances and clusters.
        truth: (times or 1, models), the reference groups.
        weights: (times or 1, pairs), how often each pair counts.
    """
    first, second = np.triu_indices(len(evidence.truth), 1)
    weights = weights * ((truth[:, first] >= 0) & (truth[:, second] >= 0))
    across = truth[:, first] != truth[:, second]
    if name == "auc":
        return _auc(evidence.distances[first, second], across, weights)
    clusters = _with_singletons(evidence.clusters)
    values = _rand(clusters[first] == clusters[second], ~across, weights)
    return np.where((weights * across).any(1), values, np.nan)


def _auc(distances: np.ndarray, across: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how often a pair across groups is farther apart than one within; ties count as half (Mann and Whitney)."""
    count, total = (weights * across).sum(1), weights.sum(1)
    ranks = (weights * across * _midranks(distances, weights)).sum(1)
    product = count * (total - count)
    return np.where(product > 0, (ranks - count * (count + 1) / 2) / np.maximum(product, 1), np.nan)


def _midranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ranks of values that count several times each, from 1, the mean rank where they tie.

    Args:
        values: (pairs,).
        weights: (times, pairs), how often each counts.

    Returns:
        (times, pairs).
    """
    order = np.argsort(values, kind="stable")
    levels = np.unique(values, return_inverse=True)[1]
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 1))
    per_level = np.add.reduceat(weights[:, order], starts, axis=1)
    return (per_level.cumsum(1) - (per_level - 1) / 2)[:, levels]


def _correlations(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted correlation of values, each (times or 1, pairs); NaN for fewer than three or a constant."""
    total = weights.sum(1, keepdims=True)
    first, second = (
        values - (weights * values).sum(1, keepdims=True) / np.maximum(total, 1) for values in (first, second)
    )
    squares = (weights * first**2).sum(1) * (weights * second**2).sum(1)
    is_defined = (total[:, 0] > 2) & (squares > 1e-12)
    return np.where(is_defined, (weights * first * second).sum(1) / np.sqrt(np.where(is_defined, squares, 1)), np.nan)


def _kendall(distances: np.ndarray, gaps: np.ndarray) -> float:
    if len(distances) < 3 or np.ptp(distances) == 0 or np.ptp(gaps) == 0:
        return math.nan
    return float(stats.kendalltau(distances, gaps)[0])  # pyright: ignore[reportArgumentType]


def _rand(clustered: np.ndarray, truly: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the adjusted Rand index from pairs: are two models in one cluster, and in one reference group?"""
    both, neither = (weights * (clustered & truly)).sum(1), (weights * (~clustered & ~truly)).sum(1)
    only, missed = (weights * (clustered & ~truly)).sum(1), (weights * (~clustered & truly)).sum(1)
    denominator = (both + missed) * (missed + neither) + (both + only) * (only + neither)
    agreement = 2 * (both * neither - missed * only) / np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, agreement, np.nan)


def _with_singletons(clusters: np.ndarray) -> np.ndarray:
    """Return the clusters with each outlier as a cluster of its own."""
    labels = clusters.copy()
    labels[clusters < 0] = clusters.max() + 1 + np.arange((clusters < 0).sum())
    return labels
