"""Numbers of the study `generalization`: clusters, their agreement with the truth, and where groups part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dissimilarity.capture.sites import LOGITS
from dissimilarity.tables.curves import distinct, select
from studies.common.jackknife import LEVEL
from studies.common.resampling import MIDDLE
from studies.generalization.agreement import STATISTICS, Agreement, Evidence, adjusted_over, agreement
from studies.generalization.clusters import Clustering, find_clusters
from studies.generalization.parting import Parting, partings
from studies.generalization.truth import Truth

ALL = "all layers"
BARRIERS = ("barrier in loss", "barrier in error")
QUICK = tuple(name for name in STATISTICS if name != "kendall")
"""Statistics of single layers and steps. Kendall's takes as long as the others together."""


@dataclass(frozen=True)
class Scores:
    """The clusters of one matrix of distances, and how it agrees with the truth."""

    clustering: Clustering
    agreement: dict[str, Agreement]

    @property
    def successful(self) -> bool:
        """Return whether there are clusters that agree with the reference groups beyond chance."""
        index = self.agreement["ari"]
        return self.clustering.count > 1 and index.adjusted < LEVEL and index.value > 0


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    A criterion is a measure or a barrier.

    Attributes:
        models: labels of the models.
        accuracies: split -> (models,), in distribution first.
        truth: the reference groups.
        sites: names of the layers.
        measures: measures that have a value at every layer, the primary one first.
        primary: the criterion and layer (a site or `all layers`) that were chosen before there were results.
        distances: measure -> (layers, models, models) at the end of training.
        over_all: criterion -> (models, models), over all layers.
        scores: (criterion, site or `all layers`) -> its scores.
        parting: measure -> where the groups part.
        by_step: step -> measure -> the scores of its distance over all layers at that step.
        stitched: split -> (front group, back group) -> (pairs, layers + 1) accuracy by number of layers in front.
    """

    models: list[str]
    accuracies: dict[str, np.ndarray]
    truth: Truth
    sites: list[str]
    measures: list[str]
    primary: tuple[str, str]
    distances: dict[str, np.ndarray]
    over_all: dict[str, np.ndarray]
    scores: dict[tuple[str, str], Scores]
    parting: dict[str, Parting]
    by_step: dict[int, dict[str, Scores]] = field(default_factory=dict)
    stitched: dict[str, dict[tuple[str, str], np.ndarray]] = field(default_factory=dict)

    @property
    def criteria(self) -> list[str]:
        """Return measures and barriers."""
        return list(self.over_all)

    def successful(self) -> list[str]:
        """Return the criteria whose clusters over all layers are the reference groups beyond chance, best first."""
        names = [criterion for criterion in self.criteria if self.scores[criterion, ALL].successful]
        return sorted(names, key=lambda criterion: -self.scores[criterion, ALL].agreement["ari"].value)


def findings(
    models: Sequence[str],
    table: pa.Table,
    barriers: Mapping[str, np.ndarray],
    earlier: Mapping[int, pa.Table],
    accuracies: Mapping[str, np.ndarray],
    truth: Truth,
    stitched: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
    primary: tuple[str, str],
) -> Findings:
    """Compute all numbers.

    Args:
        models: labels.
        table: table from `compare_many` with matched pairs of sites, every two models.
        barriers: name -> (models, models).
        earlier: step -> the same table of the models at that step.
        accuracies: as in `Findings`.
        truth: as in `Findings`.
        stitched: as in `Findings`.
        primary: label of the primary measure, and `all` or a site.

    Raises:
        ValueError: There is no such layer.
    """
    sites = [site for site in distinct(table, "site_a") if site != LOGITS]
    if primary[1] not in ("all", *sites):
        raise ValueError(f"study.primary_layer={primary[1]}: expected all, or one of {', '.join(sites)}")
    distances = by_layer(table, models, sites)
    distances = dict(sorted(distances.items(), key=lambda item: item[0] != primary[0]))
    over_all = {measure: over_layers(measure, layers) for measure, layers in distances.items()} | dict(barriers)
    level = LEVEL / len(over_all)  # each criterion may find clusters by chance
    scores = {(criterion, ALL): score_distances(matrix, truth, level) for criterion, matrix in over_all.items()}
    for measure, layers in distances.items():
        for site, matrix in zip(sites, layers, strict=True):
            scores[measure, site] = score_distances(matrix, truth, statistics=QUICK)
    by_step = {
        step: {
            measure: score_distances(over_layers(measure, layers), truth, level, QUICK)
            for measure, layers in by_layer(earlier_table, models, sites).items()
        }
        for step, earlier_table in earlier.items()
    }
    scores, by_step = _adjusted(scores, by_step)
    return Findings(
        models=list(models),
        accuracies=dict(accuracies),
        truth=truth,
        sites=sites,
        measures=list(distances),
        primary=(primary[0], ALL if primary[1] == "all" else primary[1]),
        distances=distances,
        over_all=over_all,
        scores=scores,
        parting=partings(distances, truth.labels),
        by_step=by_step,
        stitched={split: dict(kinds) for split, kinds in stitched.items()},
    )


def _adjusted(
    scores: dict[tuple[str, str], Scores], by_step: dict[int, dict[str, Scores]]
) -> tuple[dict[tuple[str, str], Scores], dict[int, dict[str, Scores]]]:
    """Return the scores with the p values of each statistic adjusted over all criteria, layers and steps."""
    everything = {(*key, None): score for key, score in scores.items()} | {
        (measure, ALL, step): score for step, measures in by_step.items() for measure, score in measures.items()
    }
    agreements: dict[Any, dict[str, Agreement]] = {key: {} for key in everything}
    for name in STATISTICS:
        keys = [key for key, score in everything.items() if name in score.agreement]
        for key, result in zip(keys, adjusted_over([everything[key].agreement[name] for key in keys]), strict=True):
            agreements[key][name] = result
    everything = {key: replace(score, agreement=agreements[key]) for key, score in everything.items()}
    return (
        {key: everything[*key, None] for key in scores},
        {step: {measure: everything[measure, ALL, step] for measure in measures} for step, measures in by_step.items()},
    )


def score_distances(
    distances: np.ndarray, truth: Truth, level: float = LEVEL, statistics: Sequence[str] = STATISTICS
) -> Scores:
    """Return the scores of one matrix of distances; clusters are accepted for p below `level`."""
    clustering = find_clusters(distances, level)
    evidence = Evidence(distances, clustering.labels, truth.labels, truth.accuracy)
    return Scores(clustering, agreement(evidence, statistics))


def by_layer(table: pa.Table, models: Sequence[str], sites: Sequence[str]) -> dict[str, np.ndarray]:
    """Return measure -> (layers, models, models) dissimilarity, leaving out measures with missing values."""
    places, matrices = {label: index for index, label in enumerate(models)}, {}
    for measure in distinct(table, "measure"):
        layers = np.full((len(sites), len(models), len(models)), np.nan)
        layers[:, range(len(models)), range(len(models))] = 0
        for record in select(table, measure=measure).to_pylist():
            if record["site_a"] in sites:
                a, b = places[record["model_a"]], places[record["model_b"]]
                layer = sites.index(record["site_a"])
                layers[layer, a, b] = layers[layer, b, a] = record["dissimilarity"]
        if np.isfinite(layers).all():
            matrices[measure] = layers
    return matrices


def over_layers(measure: str, distances: np.ndarray) -> np.ndarray:
    """Return one distance per pair of models: the root of the sum of squares over layers.

    CKA enters by its arc cosine, a metric (Williams et al. 2021), as in Figure 8 of arXiv 2310.14993.

    Examples:
        >>> over_layers("procrustes", np.array([[[3.0]], [[4.0]]]))
        array([[5.]])
    """
    if measure.startswith("cka"):
        distances = np.arccos(np.clip(1 - distances, -1, 1))
    return np.sqrt((distances**2).sum(0))


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean and the middle 95% over pairs of (pairs, layers)."""
    low, high = np.percentile(values, MIDDLE, axis=0)
    return values.mean(0), low, high
