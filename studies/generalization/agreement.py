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

from studies.common.jackknife import ENOUGH
from studies.common.resampling import Resamples, one_sided_p, percentile_interval, resamples_of

DRAWS = 499
STATISTICS = ("ari", "auc", "spearman", "kendall")


@dataclass(frozen=True)
class Agreement:
    """One statistic; NaN if undefined.

    Attributes:
        value: the statistic of the models as they are.
        low, high: 95 % bootstrap interval over models.
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
    value = statistic(name, evidence, np.arange(len(evidence.truth)))
    if math.isnan(value) or _smallest_side(name, evidence) < ENOUGH:
        return Agreement(value)
    permuted = permuted_statistics(name, evidence, resamples.permutations)
    drawn = np.array([statistic(name, evidence, draw) for draw in resamples.draws])
    low, high = percentile_interval(drawn, len(drawn))
    return Agreement(value, low, high, float(one_sided_p(value, permuted)), float(np.nanmean(permuted)))


def _smallest_side(name: str, evidence: Evidence) -> int:
    """Return the number of models in the smallest group; correlations have no groups, so all models count."""
    if name not in ("ari", "auc"):
        return len(evidence.truth)
    return int(np.unique(evidence.truth[evidence.truth >= 0], return_counts=True)[1].min(initial=len(evidence.truth)))


def permuted_statistics(name: str, evidence: Evidence, permutations: np.ndarray) -> np.ndarray:
    """Return the statistic for each permutation of the models: (permutations,)."""
    models = np.arange(len(evidence.truth))
    if name != "spearman":
        return np.array([statistic(name, _permuted(evidence, order), models) for order in permutations])
    first, second = np.triu_indices(len(models), 1)
    ranks = np.zeros(evidence.distances.shape)
    ranks[first, second] = stats.rankdata(np.abs(evidence.accuracy[first] - evidence.accuracy[second]))
    ranks += ranks.T
    distances = stats.rankdata(evidence.distances[first, second])
    gaps = ranks[permutations[:, first], permutations[:, second]]
    return (gaps - gaps.mean()) @ (distances - distances.mean()) / (gaps[0].std() * distances.std() * len(distances))


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


def statistic(name: str, evidence: Evidence, drawn: np.ndarray) -> float:
    """Return one statistic over the pairs of different models among those drawn.

    It is NaN without two reference groups, or without two values.

    Example:
        >>> far = np.array([[0, 1, 5, 5], [1, 0, 5, 5], [5, 5, 0, 1], [5, 5, 1, 0]])
        >>> groups = np.array([0, 0, 1, 1])
        >>> statistic("ari", Evidence(far, groups, groups, groups * 0.5), np.arange(4))
        1.0
    """
    truth, distances, accuracy = evidence.truth, evidence.distances, evidence.accuracy
    if name in ("ari", "auc"):
        drawn = drawn[truth[drawn] >= 0]
    first, second = np.triu_indices(len(drawn), 1)
    a, b = drawn[first], drawn[second]
    a, b = a[a != b], b[a != b]
    across = truth[a] != truth[b]
    if name in ("ari", "auc") and not across.any():
        return math.nan
    if name == "ari":
        clusters = _with_singletons(evidence.clusters)
        return _rand(clusters[a] == clusters[b], ~across)
    if name == "auc":
        return _auc(distances[a, b], across)
    return _correlation(name, distances[a, b], np.abs(accuracy[a] - accuracy[b]))


def _auc(distances: np.ndarray, across: np.ndarray) -> float:
    """Return how often a pair across groups is farther apart than one within; ties count as half (Mann and Whitney)."""
    count = int(across.sum())
    if not 0 < count < len(across):
        return math.nan
    ranks = stats.rankdata(distances)
    return float((ranks[across].sum() - count * (count + 1) / 2) / (count * (len(across) - count)))


def _correlation(name: str, distances: np.ndarray, gaps: np.ndarray) -> float:
    if len(distances) < 3 or np.ptp(distances) == 0 or np.ptp(gaps) == 0:
        return math.nan
    if name == "kendall":
        return float(stats.kendalltau(distances, gaps)[0])  # pyright: ignore[reportArgumentType]
    return float(np.corrcoef(stats.rankdata(distances), stats.rankdata(gaps))[0, 1])


def _rand(clustered: np.ndarray, truly: np.ndarray) -> float:
    """Return the adjusted Rand index from pairs: are two models in one cluster, and in one reference group?"""
    both, neither = (clustered & truly).sum(), (~clustered & ~truly).sum()
    only, missed = (clustered & ~truly).sum(), (~clustered & truly).sum()
    denominator = (both + missed) * (missed + neither) + (both + only) * (only + neither)
    return float(2 * (both * neither - missed * only) / denominator) if denominator else math.nan


def _with_singletons(clusters: np.ndarray) -> np.ndarray:
    """Return the clusters with each outlier as a cluster of its own."""
    labels = clusters.copy()
    labels[clusters < 0] = clusters.max() + 1 + np.arange((clusters < 0).sum())
    return labels
