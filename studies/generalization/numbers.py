"""What follows from distances between models and from their accuracies: groups, agreement, and where groups part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from dissimilarity.capture.sites import LOGITS
from dissimilarity.tables.curves import distinct, select
from studies.generalization.agreement import STATISTICS, Agreement, agreement
from studies.generalization.clusters import LEVEL, Grouping, groups_of
from studies.generalization.parting import Parting, parting

ALL = "all layers"
BARRIERS = ("barrier in loss", "barrier in error")
QUICK = tuple(name for name in STATISTICS if name != "kendall")
"""The statistics of single layers and steps; Kendall's takes as long as the others together."""
QUARTER = 0.25
"""Share of the models in the top and the bottom group where the accuracies themselves fall into no groups."""


@dataclass(frozen=True)
class Truth:
    """The groups that are to be found.

    Attributes:
        labels: (models,) the group of each; -1 for a model of none.
        names: of the groups.
        how: where they come from, in words.
        split: the one out of distribution on which gaps are taken.
        accuracy: (models,) on it.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    how: str
    split: str
    accuracy: np.ndarray

    @property
    def two(self) -> tuple[int, int] | None:
        """The groups of the highest and of the lowest mean accuracy; None where there are not two."""
        groups = [group for group in range(len(self.names)) if (self.labels == group).any()]
        groups.sort(key=lambda group: -float(self.accuracy[self.labels == group].mean()))
        return (groups[0], groups[-1]) if len(groups) > 1 else None


@dataclass(frozen=True)
class Found:
    """What one matrix of distances says: its groups, and how they and it agree with the truth."""

    grouping: Grouping
    agreement: dict[str, Agreement]

    @property
    def finds(self) -> bool:
        """Whether there are groups and they are the true ones beyond chance."""
        return self.grouping.count > 1 and self.agreement["ari"].p < LEVEL and self.agreement["ari"].value > 0


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        models: their labels.
        accuracies: split -> (models,), in distribution first.
        truth: the groups to be found.
        sites: of the layers.
        measures: of the layers; barriers are no such.
        distances: measure -> (layers, models, models) at the end of training.
        whole: measure or barrier -> (models, models), over all layers.
        found: (measure or barrier, site or `all layers`) -> what it says.
        parting: measure -> where the groups part.
        soon: step -> measure -> what its distance over all layers says then.
        stitched: split -> (front group, back group) -> (pairs, layers + 1) accuracy with so many layers of the front.
        spread: of the accuracies in distribution, and out of it, over models: highest less lowest.
    """

    models: list[str]
    accuracies: dict[str, np.ndarray]
    truth: Truth
    sites: list[str]
    measures: list[str]
    distances: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]
    found: dict[tuple[str, str], Found]
    parting: dict[str, Parting]
    soon: dict[int, dict[str, Found]] = field(default_factory=dict)
    stitched: dict[str, dict[tuple[str, str], np.ndarray]] = field(default_factory=dict)

    @property
    def ways(self) -> list[str]:
        """Measures and barriers."""
        return list(self.whole)

    def finders(self) -> list[str]:
        """Those whose groups over all layers are the true ones beyond chance, the best first."""
        found = [way for way in self.ways if self.found[way, ALL].finds]
        return sorted(found, key=lambda way: -self.found[way, ALL].agreement["ari"].value)


def findings(
    models: Sequence[str],
    table: pa.Table,
    barriers: Mapping[str, np.ndarray],
    soon: Mapping[int, pa.Table],
    accuracies: Mapping[str, np.ndarray],
    truth: Truth,
    stitched: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
) -> Findings:
    """All numbers.

    Args:
        models: labels.
        table: of `compare_many` with matched pairs of sites, every two models.
        barriers: name -> (models, models).
        soon: step -> the same table of the models as they were then.
        accuracies, truth, stitched: as in `Findings`.
    """
    sites = [site for site in distinct(table, "site_a") if site != LOGITS]
    distances = by_layer(table, models, sites)
    whole = {measure: over_layers(measure, each) for measure, each in distances.items()} | dict(barriers)
    level = LEVEL / len(whole)  # any of them may say that there are groups where there are none
    found = {(way, ALL): look(each, truth, level) for way, each in whole.items()}
    for measure, each in distances.items():
        found |= {(measure, site): look(far, truth, statistics=QUICK) for site, far in zip(sites, each, strict=True)}
    parts = {measure: parting(each, truth.labels) for measure, each in distances.items()}
    early = {}
    for step, earlier in soon.items():
        layers = by_layer(earlier, models, sites)
        early[step] = {
            measure: look(over_layers(measure, each), truth, level, QUICK) for measure, each in layers.items()
        }
    return Findings(
        models=list(models),
        accuracies=dict(accuracies),
        truth=truth,
        sites=sites,
        measures=list(distances),
        distances=distances,
        whole=whole,
        found=found,
        parting={measure: each for measure, each in parts.items() if each is not None},
        soon=early,
        stitched={split: dict(each) for split, each in stitched.items()},
    )


def look(distances: np.ndarray, truth: Truth, level: float = LEVEL, statistics: Sequence[str] = STATISTICS) -> Found:
    """What one matrix of distances says; groups are accepted below a level of p."""
    grouping = groups_of(distances, level)
    return Found(grouping, agreement(distances, grouping.labels, truth.labels, truth.accuracy, statistics))


def by_layer(table: pa.Table, models: Sequence[str], sites: Sequence[str]) -> dict[str, np.ndarray]:
    """Measure -> (layers, models, models) dissimilarity; a measure that lacks a value is left out."""
    place, found = {label: index for index, label in enumerate(models)}, {}
    for measure in distinct(table, "measure"):
        far = np.full((len(sites), len(models), len(models)), np.nan)
        far[:, range(len(models)), range(len(models))] = 0
        rows: list[dict[str, Any]] = select(table, measure=measure).to_pylist()
        for row in rows:
            if row["site_a"] in sites:
                a, b, layer = place[row["model_a"]], place[row["model_b"]], sites.index(row["site_a"])
                far[layer, a, b] = far[layer, b, a] = row["dissimilarity"]
        if np.isfinite(far).all():
            found[measure] = far
    return found


def over_layers(measure: str, distances: np.ndarray) -> np.ndarray:
    """One distance of two models: the root of the sum of squares over layers; of CKA of its arc cosine, a metric.

    Williams et al. 2021, as in Figure 8 of arXiv 2310.14993.
    """
    if measure.startswith("cka"):
        distances = np.arccos(np.clip(1 - distances, -1, 1))
    return np.sqrt((distances**2).sum(0))


def truth_of(
    models: Sequence[str],
    accuracies: Mapping[str, np.ndarray],
    split: str | None,
    groups: Mapping[str, Sequence[str]],
    share: float | None,
) -> Truth:
    """The groups to be found: those given, or of the accuracies out of distribution.

    Args:
        models: labels.
        accuracies: split -> (models,), in distribution first.
        split: the one that counts; None for the one on which models differ most.
        groups: name -> labels of its models; empty for those of the accuracies.
        share: of the models, in the top and in the bottom group (the paper: 0.1); None for the groups that the
            accuracies fall into, as `groups_of` finds them in one dimension, and a quarter each where there are none.
    """
    others = list(accuracies)[1:]
    chosen = split or max(others, key=lambda name: float(np.ptp(accuracies[name])))
    accuracy = accuracies[chosen]
    labels = np.full(len(models), -1)
    if groups:
        for number, members in enumerate(groups.values()):
            labels[[list(models).index(label) for label in members]] = number
        return Truth(labels, tuple(groups), "given", chosen, accuracy)
    if share is None:
        found = groups_of(np.abs(accuracy[:, None] - accuracy))
        if found.count > 1:
            order = sorted(range(found.count), key=lambda group: -float(accuracy[found.labels == group].mean()))
            for number, group in enumerate(order):
                labels[found.labels == group] = number
            names = ("better", "worse") if found.count == 2 else tuple(f"rank {n + 1}" for n in range(found.count))
            how = f"the groups that the accuracies fall into (p = {found.p:.3f})"
            return Truth(labels, names, how, chosen, accuracy)
        how = f"the top and bottom quarter, for the accuracies fall into no groups (p = {found.p:.2f})"
    else:
        how = f"the top and bottom {share:.0%}"
    count = max(2, round((QUARTER if share is None else share) * len(models)))
    order = np.argsort(-accuracy, kind="stable")
    labels[order[:count]], labels[order[-count:]] = 0, 1
    return Truth(labels, ("better", "worse"), how, chosen, accuracy)


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and the middle 95 % over pairs, of (pairs, layers)."""
    low, high = np.percentile(values, (2.5, 97.5), axis=0)
    return values.mean(0), low, high


def kinds_of_pairs(truth: Truth) -> dict[str, list[tuple[int, int]]]:
    """Name -> pairs of models: within the best group, within the worst, across."""
    two = truth.two
    if two is None:
        return {}
    first, last = (np.nonzero(truth.labels == group)[0] for group in two)
    names = [truth.names[group] for group in two]
    return {
        f"within {names[0]}": [(int(a), int(b)) for i, a in enumerate(first) for b in first[i + 1 :]],
        f"within {names[1]}": [(int(a), int(b)) for i, a in enumerate(last) for b in last[i + 1 :]],
        "across": [(int(a), int(b)) for a in first for b in last],
    }


def gap_of_two(truth: Truth, values: np.ndarray) -> tuple[float, float]:
    """Mean of the best group less that of the worst, and half its 95 % interval (Welch); NaN without two groups."""
    two = truth.two
    if two is None:
        return math.nan, math.nan
    first, last = (values[truth.labels == group] for group in two)
    difference = float(first.mean() - last.mean())
    if min(len(first), len(last)) < 2 or np.ptp(first) + np.ptp(last) == 0:
        return difference, math.nan
    low, high = stats.ttest_ind(first, last, equal_var=False).confidence_interval()
    return difference, float(high - low) / 2
