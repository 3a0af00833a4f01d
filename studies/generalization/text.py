"""The summary of the study `generalization`, written from its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.inference.coverage import FEWEST_MODELS, FINE_TUNINGS
from studies.common.format import DASH, listed, number, table_head, table_row
from studies.common.jackknife import LEVEL, no_interval
from studies.generalization.agreement import STATISTICS, Agreement
from studies.generalization.numbers import ALL, QUICK, Findings, Scores
from studies.generalization.parting import Parting
from studies.generalization.truth import gap_between

SCORES = ("clusters", "p, cloud", "p, hull", "silhouette", "adjusted Rand index", "AUC", "Spearman")


def summary(findings: Findings, notes: Mapping[str, Any]) -> str:
    """Return the summary, one page of Markdown."""
    lines = ["# Which models will fail elsewhere, seen from in-distribution inputs alone?", "", answer(findings), ""]
    lines += ["## The models", "", *_models(findings)]
    lines += ["", "## Clusters by each measure", "", *_clusters(findings, notes)]
    lines += ["", "## From which layer?", "", *_layers(findings)]
    if findings.by_step:
        lines += ["", "## How early in training?", "", *_by_step(findings)]
    if findings.stitched:
        lines += ["", "## Identity stitching", "", *_stitched(findings)]
    return "\n".join(lines) + "\n"


def terminal_tables(findings: Findings) -> list[FittedTable]:
    """Return the scores of every criterion over all layers."""
    title = "from in-distribution inputs, over all layers [95% interval]"
    table = FittedTable(title, drop=["Spearman with the gap", "AUC"])
    for column in ("measure", "clusters", "p, cloud", "p, hull", "adjusted Rand index", "AUC", "Spearman with the gap"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for criterion in findings.criteria:
        scores = findings.scores[criterion, ALL]
        cells = [_short(scores.agreement[name]) for name in ("ari", "auc", "spearman")]
        table.add_row(criterion, str(scores.clustering.count), *map(_p, _both(scores)), *cells)
    return [table]


def answer(findings: Findings) -> str:
    """Return the first paragraph: which measure finds the groups, from which layer on, and how early."""
    truth, successful = findings.truth, findings.successful()
    in_distribution = next(iter(findings.accuracies.values()))
    sentences = []
    if truth.best_and_worst is not None:
        better, worse = (truth.names[group] for group in truth.best_and_worst)
        inside, outside = (gap_between(truth, accuracy) for accuracy in (in_distribution, truth.accuracy))
        sentences.append(
            f"The reference groups are {better} and {worse} ({truth.origin}): their accuracies differ by "
            f"{_points(inside)} in distribution and by {_points(outside)} on {truth.split}."
        )
    sentences += [*_primary(findings), *_cluster_sentences(findings)]
    first = next((criterion for criterion in successful if criterion in findings.parting), None)
    if first is not None:
        sentences.append(f"By {first} the groups part {_where(findings, findings.parting[first])}.")
    earliest = _earliest(findings)
    if earliest is not None:
        sentences.append(f"They are found from step {earliest[0]:,} on, by {earliest[1]}.")
    related = [
        f"{criterion} {_value(spearman)}"
        for criterion in findings.criteria
        if (spearman := findings.scores[criterion, ALL].agreement["spearman"]).adjusted < LEVEL
    ]
    gap = f"the gap between their accuracies on {truth.split}"
    sentences.append(
        f"The distance between two models correlates with {gap} by {listed(related)} (Spearman)."
        if related
        else f"The distance between two models does not correlate with {gap} beyond chance by any measure."
    )
    return " ".join(sentences)


def _primary(findings: Findings) -> list[str]:
    """Say what was to be tested before there were results: clusters and correlation of the primary measure."""
    criterion, layer = findings.primary
    scores = findings.scores.get((criterion, layer))
    if scores is None:
        return [f"The primary measure, {criterion}, has no value at every layer, so everything is exploratory."]
    spearman, clustering = scores.agreement["spearman"], scores.clustering
    where = "over all layers" if layer == ALL else f"at {layer}"
    count = "no clusters" if clustering.count == 1 else f"{clustering.count} clusters"
    tested = "too few models for a verdict" if math.isnan(spearman.p) else f"p {_p(spearman.p)}, not adjusted"
    return [
        f"By the primary measure, {criterion} {where}, there are {count}, and the distance between two models has a "
        f"rank correlation of {_short(spearman)} with the gap between their accuracies on {findings.truth.split} "
        f"({tested}). Everything else is exploratory."
    ]


def _cluster_sentences(findings: Findings) -> list[str]:
    """Say which criteria find clusters, and whether these are the reference groups."""
    criteria, successful = findings.criteria, findings.successful()
    clusterings = {criterion: findings.scores[criterion, ALL].clustering for criterion in criteria}
    without = [criterion for criterion in criteria if clusterings[criterion].count == 1]
    if len(without) == len(criteria):
        p = _p(min(np.nanmax([clustering.p, clustering.p_hull]) for clustering in clusterings.values()))
        return [
            f"**There are no clusters**: over all layers, the {len(findings.models)} models do not cluster more than a "
            f"single cloud or an even spread would, by any of {listed(criteria)} (lowest p {p})."
        ]
    if not successful:
        indices = _with_index(findings, [criterion for criterion in criteria if criterion not in without])
        return [
            f"There are clusters by {indices}, but **agreement with the reference groups cannot be told from chance**."
        ]
    sentences = [f"From in-distribution inputs alone, the groups are found by {_with_index(findings, successful)}."]
    return sentences + ([f"There are no clusters by {listed(without)}."] if without else [])


def _with_index(findings: Findings, criteria: Sequence[str]) -> str:
    indices = {criterion: findings.scores[criterion, ALL].agreement["ari"] for criterion in criteria}
    return listed([f"{criterion} (adjusted Rand index {_value(index)})" for criterion, index in indices.items()])


def _models(findings: Findings) -> list[str]:
    truth = findings.truth
    criterion = "" if truth.origin == "given" else ", the split on which they differ most or the one that was named"
    names = [name for number_, name in enumerate(truth.names) if (truth.labels == number_).any()]
    lines = [
        f"{len(findings.models)} models. Reference groups: {truth.origin}, by accuracy on {truth.split}{criterion}. "
        "They serve only as a comparison for the clusters.",
        "",
        *table_head("split", "all models, lowest to highest", *names, "difference"),
    ]
    for split, accuracy in findings.accuracies.items():
        by_group = [accuracy[truth.labels == number_] for number_, name in enumerate(truth.names) if name in names]
        means = [
            f"{group.mean():.1%} ± {group.std(ddof=1):.1%}" if len(group) > 1 else f"{group.mean():.1%}"
            for group in by_group
        ]
        span = f"{accuracy.min():.1%} to {accuracy.max():.1%}"
        lines.append(table_row(split, span, *means, _points(gap_between(truth, accuracy))))
    return [
        *lines,
        "",
        "± is the standard deviation over models; for a difference, half its 95% interval (Welch).",
        FINE_TUNINGS,
    ]


def _clusters(findings: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe = notes["probe"]
    padding = "padding included" if probe["include_padding"] else "padding ignored"
    lines = [
        f"Distances over all layers on {probe['sequences']} in-distribution examples, {padding}: the root of the sum "
        "of squares over layers, for CKA of its arc cosine. Clusters: Ward's method cuts k clusters in the first k - 1 "
        "principal coordinates. One p is relative to a Gaussian cloud of the same spectrum, the other to models spread "
        "evenly over a hull (a line, a circle, a shell); it is computed only where the cloud does not explain the cut. "
        f"Clusters are accepted if both are below 0.05 / {len(findings.criteria)}, since each measure may err. "
        "Adjusted Rand index: clusters and reference groups. AUC: two models of different groups are farther apart "
        "than two of one. Correlations: distance and the gap between accuracies. Brackets hold 95% bootstrap "
        "intervals over models, followed by one-sided p values from "
        "permuting models, adjusted over all measures, layers and steps (false discovery rate). Groups of fewer than "
        f"{FEWEST_MODELS} models have neither. {FINE_TUNINGS}",
        "",
        *table_head("measure", *SCORES, "Kendall"),
    ]
    lines += [table_row(criterion, *_cells(findings.scores[criterion, ALL])) for criterion in findings.criteria]
    for criterion in findings.criteria:
        outliers = findings.scores[criterion, ALL].clustering.outliers
        if outliers:
            names = listed([findings.models[model] for model in outliers])
            lines += ["", f"Outliers by {criterion}: {names}."]
    return lines


def _layers(findings: Findings) -> list[str]:
    if not findings.parting:
        return ["There are no two groups of two models or more."]
    lines = [
        "The groups part at the first layer from which, up to the last layer, the mean distance across groups minus "
        "that within exceeds that of permuted models: p below 0.05, adjusted over all measures and layers (false "
        "discovery rate). The interval is over draws of models.",
        "",
        *table_head("measure", "the groups part", "95% interval", "adjusted p at the last layer"),
    ]
    for measure, parting in findings.parting.items():
        if not parting.has_verdict:
            lines.append(table_row(measure, f"no verdict ({no_interval(parting.models)})", DASH, DASH))
            continue
        ends = [_layer(findings, end) for end in (parting.earliest, parting.latest)]
        p = _p(float(parting.adjusted[-1]))
        lines.append(table_row(measure, _layer(findings, parting.first), f"{ends[0]} to {ends[1]}", p))
    lines += ["", *table_head("measure", "layer", *SCORES)]
    for measure in findings.measures:
        for site in findings.sites:
            lines.append(table_row(measure, site, *_cells(findings.scores[measure, site], QUICK)))
    return lines


def _by_step(findings: Findings) -> list[str]:
    lines = ["Over all layers, at saved steps.", "", *table_head("measure", "step", *SCORES)]
    for measure in findings.measures:
        for step, scores in findings.by_step.items():
            if measure in scores:
                lines.append(table_row(measure, str(step), *_cells(scores[measure], QUICK)))
        lines.append(table_row(measure, "end", *_cells(findings.scores[measure, ALL], QUICK)))
    return lines


def _stitched(findings: Findings) -> list[str]:
    layers = next(iter(next(iter(findings.stitched.values())).values())).shape[1]
    lines = [
        "Accuracy of the first l layers of one model under the rest of another, with nothing in between; l = 0 takes "
        "the embeddings alone, the last l all blocks under the other's final norm and head. Mean over pairs (lowest to "
        "highest where the mean is lowest).",
        "",
        *table_head("split", "front to back", *(f"l = {layer}" for layer in range(layers)), "lowest"),
    ]
    for split, kinds in findings.stitched.items():
        for (front, back), values in kinds.items():
            mean = values.mean(0)
            worst = int(mean.argmin())
            span = f"l = {worst}: {values[:, worst].min():.3f} to {values[:, worst].max():.3f}"
            lines.append(table_row(split, f"{front} to {back}", *(f"{value:.3f}" for value in mean), span))
    return lines


def _earliest(findings: Findings) -> tuple[int, str] | None:
    """Return the first step from which a measure finds the groups at every later step, and the measure."""
    earliest: tuple[int, str] | None = None
    for measure in findings.measures:
        if not findings.scores[measure, ALL].successful:
            continue
        for step in reversed(findings.by_step):
            scores = findings.by_step[step].get(measure)
            if scores is None or not scores.successful:
                break
            if earliest is None or step < earliest[0]:
                earliest = step, measure
    return earliest


def _where(findings: Findings, parting: Parting) -> str:
    if not parting.has_verdict:
        return f"nowhere that could be tested ({no_interval(parting.models)})"
    if parting.first is None:
        return "at no layer: at the last one, the distance across is no larger than among permuted models"
    ends = f"{_layer(findings, parting.earliest)} to {_layer(findings, parting.latest)}"
    return f"from {findings.sites[parting.first]} on (95% interval {ends})"


def _layer(findings: Findings, layer: int | None) -> str:
    return "never" if layer is None else findings.sites[layer]


def _cells(scores: Scores, statistics: Sequence[str] = STATISTICS) -> list[str]:
    clustering = scores.clustering
    cells = [str(clustering.count), *map(_p, _both(scores)), number(clustering.silhouette, 2, sign=False)]
    return [*cells, *(_value(scores.agreement[name]) for name in statistics)]


def _both(scores: Scores) -> tuple[float, float]:
    return scores.clustering.p, scores.clustering.p_hull


def _value(agreement: Agreement) -> str:
    if math.isnan(agreement.value):
        return DASH
    return _short(agreement) if math.isnan(agreement.adjusted) else f"{_short(agreement)}, p {_p(agreement.adjusted)}"


def _short(agreement: Agreement) -> str:
    value, low, high = (number(part, 2, sign=False) for part in (agreement.value, agreement.low, agreement.high))
    return value if math.isnan(agreement.low) else f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "< 0.01" if value < 0.01 else f"{value:.2f}"


def _points(gap: tuple[float, float]) -> str:
    difference, half = (100 * value for value in gap)
    if math.isnan(difference):
        return DASH
    return f"{difference:+.1f} points" + (f" ± {half:.1f}" if math.isfinite(half) else "")
