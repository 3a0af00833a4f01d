"""The reference groups that clusters are compared with: given ones, or those that accuracies fall into."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dissimilarity.inference.coverage import FEWEST_MODELS
from studies.common.format import p_value
from studies.generalization.clusters import find_clusters

GIVEN = "given"
QUARTER = 0.25
"""Share of the models in the top and in the bottom group if the accuracies do not form clusters."""


@dataclass(frozen=True)
class Truth:
    """The reference groups.

    Attributes:
        labels: (models,) reference group of each model; -1 for none.
        names: names of the groups.
        origin: where the groups come from, in words.
        split: the split out of distribution on which gaps are measured.
        accuracy: (models,) on that split.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    origin: str
    split: str
    accuracy: np.ndarray

    @property
    def best_and_worst(self) -> tuple[int, int] | None:
        """Return the groups of the highest and of the lowest mean accuracy; None without two groups."""
        groups = [group for group in range(len(self.names)) if (self.labels == group).any()]
        groups.sort(key=lambda group: -float(self.accuracy[self.labels == group].mean()))
        return (groups[0], groups[-1]) if len(groups) > 1 else None


def truth_of(
    models: Sequence[str],
    accuracies: Mapping[str, np.ndarray],
    split: str | None,
    reference_groups: Mapping[str, Sequence[str]],
    share: float | None,
) -> Truth:
    """Return the reference groups that are given, or those of the accuracies out of distribution.

    Args:
        models: labels.
        accuracies: split -> (models,), in distribution first.
        split: the split that counts; None for the one on which models differ most.
        reference_groups: name -> labels of its models; empty for groups of the accuracies.
        share: share of the models in the top and in the bottom group (the paper: 0.1); None for the clusters of the
            accuracies, or a quarter each if there are none.

    Examples:
        >>> accuracies = {"val": np.ones(4), "far": np.array([0.9, 0.8, 0.1, 0.2])}
        >>> truth_of(["a", "b", "c", "d"], accuracies, None, {}, 0.5).labels.tolist()
        [0, 0, 1, 1]
    """
    others = list(accuracies)[1:]
    split = split or max(others, key=lambda name: float(np.ptp(accuracies[name])))
    accuracy = accuracies[split]
    labels = np.full(len(models), -1)
    if reference_groups:
        for number, members in enumerate(reference_groups.values()):
            labels[[list(models).index(label) for label in members]] = number
        return Truth(labels, tuple(reference_groups), GIVEN, split, accuracy)
    if share is None:
        clustering = find_clusters(np.abs(accuracy[:, None] - accuracy))
        count = clustering.count
        if count > 1:
            clusters = range(count)
            order = sorted(clusters, key=lambda cluster: -float(accuracy[clustering.labels == cluster].mean()))
            for number, cluster in enumerate(order):
                labels[clustering.labels == cluster] = number
            names = ("better", "worse") if count == 2 else tuple(f"rank {number + 1}" for number in clusters)
            return Truth(labels, names, f"clusters of the accuracies, {p_value(clustering.p)}", split, accuracy)
        origin = f"the top and bottom quarter, because the accuracies form no clusters, {p_value(clustering.p, 2)}"
    else:
        origin = f"the top and bottom {share:.0%}"
    count = max(2, round((QUARTER if share is None else share) * len(models)))
    order = np.argsort(-accuracy, kind="stable")
    labels[order[:count]], labels[order[-count:]] = 0, 1
    return Truth(labels, ("better", "worse"), origin, split, accuracy)


def pairs_by_kind(truth: Truth) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs of models within the best group, within the worst, and across."""
    groups = truth.best_and_worst
    if groups is None:
        return {}
    best, worst = (np.nonzero(truth.labels == group)[0] for group in groups)
    names = [truth.names[group] for group in groups]
    return {
        f"within {names[0]}": [(int(a), int(b)) for i, a in enumerate(best) for b in best[i + 1 :]],
        f"within {names[1]}": [(int(a), int(b)) for i, a in enumerate(worst) for b in worst[i + 1 :]],
        "across": [(int(a), int(b)) for a in best for b in worst],
    }


def gap_between(truth: Truth, values: np.ndarray) -> tuple[float, float]:
    """Return the mean of the best group minus that of the worst, and half its 95% interval over models (Welch).

    Groups that were made from the accuracies differ in them by construction: they have no interval, and neither have
    groups of fewer than five models.
    """
    groups = truth.best_and_worst
    if groups is None:
        return math.nan, math.nan
    best, worst = (values[truth.labels == group] for group in groups)
    difference = float(best.mean() - worst.mean())
    if truth.origin != GIVEN or min(len(best), len(worst)) < FEWEST_MODELS or np.ptp(best) + np.ptp(worst) == 0:
        return difference, math.nan
    with (
        warnings.catch_warnings()
    ):  # scipy warns of a group whose models are all alike, for which Welch's test is exact
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        low, high = stats.ttest_ind(best, worst, equal_var=False).confidence_interval()
    return difference, float(high - low) / 2
