"""Figures of the study `generalization`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import leaves_list

from dissimilarity.figures.embedding import tree
from dissimilarity.figures.figure import PaperFigure, in_style
from dissimilarity.figures.layout import write_coverage
from dissimilarity.figures.style import GROUP_COLORS, name_layers, short_names, spread
from dissimilarity.inference.coverage import FINE_TUNINGS, PAIRS
from dissimilarity.measures.titles import dissimilarity_title
from studies.common.format import p_value
from studies.common.jackknife import LEVEL
from studies.generalization.agreement import Agreement
from studies.generalization.numbers import ALL, Findings, Scores, band
from studies.generalization.parting import Parting
from studies.generalization.truth import pairs_by_kind

COLORS = GROUP_COLORS
GOOD, BAD, ACROSS, BACK = COLORS[:4]
NONE = "0.6"
SCIENTIFIC = (-2, 3)
"""Powers of ten beyond which the numbers of an axis share a factor: barriers may be around 1e-4."""
MARKERS = ("o", "s", "^", "D", "v", "P")
TITLES = {"ari": "adjusted Rand index", "auc": "AUC, across vs. within", "spearman": "Spearman, with the gap"}


def figures(findings: Findings) -> dict[str, Figure]:
    """Return every figure by file name."""
    drawn: dict[str, Figure] = {}
    with in_style():
        drawn["layers"] = _layers(findings)
        if len(findings.stitched) > 1:
            drawn["stitched_elsewhere"] = _stitched(findings)
        drawn["distances"] = _distances(findings)
        drawn["accuracies"] = _accuracies(findings)
        drawn["agreement"] = _agreement(findings)
        if findings.by_step:
            drawn["steps"] = _steps(findings)
    return drawn


def _layers(findings: Findings) -> Figure:
    """Draw, in distribution, the accuracy of stitched models by layers in front, and each measure by layer."""
    split = next(iter(findings.stitched), None)
    count = len(findings.measures) + (split is not None)
    figure = PaperFigure(figsize=(1.6 + 2.3 * count, 2.5), layout="constrained")
    axes: Any = figure.subplots(1, count, squeeze=False)[0]
    if split is not None:
        _curves(axes[0], findings.stitched[split])
        axes[0].set_title("identity stitching, in distribution")
        axes[0].set_ylabel("accuracy")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right lower", frameon=False, title="stitched, front to back")
    kind, names = short_names(findings.sites)
    pairs = pairs_by_kind(findings.truth)
    panels = axes[1:] if split is not None else axes
    for panel, measure in zip(panels, findings.measures, strict=True):
        for (name, members), color in zip(pairs.items(), (GOOD, BAD, ACROSS), strict=False):
            if members:
                a, b = np.array(members).T
                _band(panel, findings.distances[measure][:, a, b].T, color, name)
        _mark_parting(panel, findings.parting.get(measure))
        name_layers(panel.xaxis, names)
        panel.set_xlabel(kind)
        panel.set_ylim(bottom=0)
        panel.set_title(dissimilarity_title(measure))
    panels[0].set_ylabel("dissimilarity, in distribution")
    handles, labels = axes[-1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, title="pairs of models")
    write_coverage(figure, PAIRS)
    return figure


def _mark_parting(panel: Axes, parting: Parting | None) -> None:
    """Mark the layer at which the groups part."""
    if parting is None or parting.first is None:
        return
    panel.axvline(parting.first, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    style: Any = {"textcoords": "offset points", "fontsize": 6, "color": "0.4", "va": "top"}
    panel.annotate("groups part", (parting.first, 1), (3, -2), xycoords=("data", "axes fraction"), **style)


def _stitched(findings: Findings) -> Figure:
    """Draw the accuracy of stitched models on every split out of distribution."""
    splits = list(findings.stitched)[1:]
    columns = min(3, len(splits))
    rows = math.ceil(len(splits) / columns)
    figure = PaperFigure(figsize=(1.7 + 2.1 * columns, 0.5 + 1.75 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for panel, split in zip(axes, splits, strict=False):
        _curves(panel, findings.stitched[split])
        panel.set_title(split)
        panel.set_ylim(-0.03, 1.03)
    for panel in list(axes)[len(splits) :]:
        panel.remove()
    figure.supylabel("accuracy", fontsize=8)
    for panel in figure.axes[:-columns]:
        panel.set_xlabel("")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title="front to back")
    write_coverage(figure, PAIRS)
    return figure


def _curves(panel: Axes, curves: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Draw one band per kind of pair, over the number of layers in front."""
    colors = _stitch_colors(list(curves))
    for kind, values in curves.items():
        _band(panel, values, colors[kind], f"{kind[0]} to {kind[1]}")
    layers = next(iter(curves.values())).shape[1]
    panel.set_xticks(range(0, layers, max(1, (layers - 1) // 6)))
    panel.set_xlabel("layers taken from the front")


def _stitch_colors(kinds: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    first = kinds[0][0]
    within, across = {True: GOOD, False: BAD}, {True: ACROSS, False: BACK}
    return {(a, b): within[a == first] if a == b else across[a == first] for a, b in kinds}


def _band(panel: Axes, values: np.ndarray, color: str, name: str) -> None:
    mean, low, high = band(values)
    panel.fill_between(range(len(mean)), low, high, color=color, alpha=0.18, linewidth=0)
    panel.plot(range(len(mean)), mean, "o-", color=color, markersize=2.5, label=name)


def _distances(findings: Findings) -> Figure:
    """Draw the distances over all layers by each criterion: the matrix, and the pairs within and across groups."""
    count = len(findings.criteria)
    figure = PaperFigure(figsize=(1.2 + 1.9 * count, 4.1), layout="constrained")
    axes: Any = figure.subplots(2, count, squeeze=False, height_ratios=(1, 1))
    rng = np.random.default_rng(0)
    for column, criterion in enumerate(findings.criteria):
        _matrix(figure, axes[0, column], findings, criterion)
        _pairs(axes[1, column], findings, criterion, rng)
    axes[1, 0].set_ylabel("distance, pairs of models")
    axes[0, 0].set_ylabel("models in the order of their tree\nleft: reference group, top: cluster", fontsize=6.5)
    return figure


def _matrix(figure: Figure, panel: Axes, findings: Findings, criterion: str) -> None:
    """Draw the matrix of distances in the order of its tree, with reference groups and clusters at the margins."""
    distances, scores = findings.over_all[criterion], findings.scores[criterion, ALL]
    order = _order(distances, scores)
    image = panel.imshow(distances[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=distances.max() or 1)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    for place, model in enumerate(order):
        panel.plot([-1.2], [place], "s", color=_group_color(findings, model), markersize=2.6, clip_on=False)
        panel.plot([place], [-1.2], "s", color=_cluster_color(scores, model), markersize=2.6, clip_on=False)
    panel.set_xlim(-1.7, len(order) - 0.5)
    panel.set_ylim(len(order) - 0.5, -1.7)
    panel.set_title(f"{criterion}\n{_clusters_in_words(scores)}")
    bar = figure.colorbar(image, ax=panel, location="bottom", aspect=18, pad=0.03)
    bar.ax.tick_params(labelsize=5.5)
    bar.ax.ticklabel_format(axis="x", scilimits=SCIENTIFIC)
    bar.ax.xaxis.get_offset_text().set_fontsize(5.5)
    bar.ax.spines[:].set_visible(False)


def _pairs(panel: Axes, findings: Findings, criterion: str, rng: np.random.Generator) -> None:
    """Draw the distances of pairs within the best group, within the worst, and across."""
    pairs = pairs_by_kind(findings.truth)
    for place, (members, color) in enumerate(zip(pairs.values(), (GOOD, BAD, ACROSS), strict=False)):
        values = [findings.over_all[criterion][pair] for pair in members]
        if values:
            x = place + rng.uniform(-0.2, 0.2, len(values))
            panel.plot(x, values, "o", color=color, markersize=1.8, alpha=0.6)
            panel.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color="0.2", linewidth=1)
    panel.ticklabel_format(axis="y", scilimits=SCIENTIFIC)
    panel.set_xticks(range(len(pairs)), [name.replace(" ", "\n", 1) for name in pairs], fontsize=6)
    panel.set_xlim(-0.6, max(len(pairs), 1) - 0.4)


def _accuracies(findings: Findings) -> Figure:
    """Draw accuracy in and out of distribution, one panel per criterion: shape = reference group, color = cluster."""
    in_distribution = next(iter(findings.accuracies.values()))
    figure = PaperFigure(figsize=(1.5 + 1.9 * len(findings.criteria), 2.3), layout="constrained")
    axes: Any = figure.subplots(1, len(findings.criteria), squeeze=False, sharex=True, sharey=True)[0]
    for panel, criterion in zip(axes, findings.criteria, strict=True):
        scores = findings.scores[criterion, ALL]
        for model in range(len(findings.models)):
            group = int(findings.truth.labels[model])
            marker = MARKERS[group % len(MARKERS)] if group >= 0 else "x"
            style: Any = {"markersize": 4, "alpha": 0.8, "markeredgewidth": 0.6}
            x, y = [in_distribution[model]], [findings.truth.accuracy[model]]
            panel.plot(x, y, marker, color=_cluster_color(scores, model), **style)
        panel.set_title(f"{criterion}\n{_clusters_in_words(scores)}")
        panel.margins(0.12)
    figure.supxlabel("accuracy in distribution", fontsize=8)
    axes[0].set_ylabel(findings.truth.split)
    handles = _accuracy_legend(findings)
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False)
    return figure


def _accuracy_legend(findings: Findings) -> dict[str, Line2D]:
    """Return the handles of reference groups and clusters by label."""
    dark: Any = {"linewidth": 0, "color": "0.3", "markersize": 4}
    handles = {
        f"group: {name}": Line2D([], [], marker=MARKERS[number % len(MARKERS)], **dark)
        for number, name in enumerate(findings.truth.names)
    }
    if (findings.truth.labels < 0).any():
        handles["group: none"] = Line2D([], [], marker="x", **dark)
    cluster_count = max(findings.scores[criterion, ALL].clustering.count for criterion in findings.criteria)
    for cluster in range(cluster_count if cluster_count > 1 else 0):
        color = COLORS[cluster % len(COLORS)]
        handles[f"cluster {cluster + 1}"] = Line2D([], [], marker="o", linewidth=0, color=color, markersize=4)
    handles["no cluster"] = Line2D([], [], marker="o", linewidth=0, color=NONE, markersize=4)
    return handles


def _agreement(findings: Findings) -> Figure:
    """Draw each statistic by layer with its interval; points are filled where it is beyond chance."""
    figure, axes = _row_of_statistics()
    kind, names = short_names(findings.sites)
    for panel, (statistic, title) in zip(axes, TITLES.items(), strict=True):
        for place, criterion in enumerate(findings.criteria):
            color = COLORS[place % len(COLORS)]
            offset = 0.09 * (place - (len(findings.criteria) - 1) / 2)
            is_measure = criterion in findings.measures
            if is_measure:
                values = [findings.scores[criterion, site].agreement[statistic] for site in findings.sites]
                _points(panel, [x + offset for x in range(len(values))], values, color, criterion, line=True)
            over_all = [findings.scores[criterion, ALL].agreement[statistic]]
            _points(panel, [len(names) + 0.5 + offset], over_all, color, None if is_measure else criterion)
        _chance(panel, statistic)
        shown = [*spread(list(enumerate(names)), 12), (len(names) + 0.5, "all")]
        panel.set_xticks([place for place, _ in shown], [name for _, name in shown])
        panel.set_xlabel(kind)
        panel.set_title(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    write_coverage(figure, FINE_TUNINGS)
    return figure


def _steps(findings: Findings) -> Figure:
    """Draw each statistic over all layers by step of the fine-tuning, with its end last."""
    figure, axes = _row_of_statistics()
    steps = list(findings.by_step)
    for panel, (statistic, title) in zip(axes, TITLES.items(), strict=True):
        for number, measure in enumerate(findings.measures):
            offset = 0.06 * (number - (len(findings.measures) - 1) / 2)
            places = [place for place, step in enumerate(steps) if measure in findings.by_step[step]]
            scores = [findings.by_step[steps[place]][measure] for place in places]
            values = [point.agreement[statistic] for point in (*scores, findings.scores[measure, ALL])]
            x = [place + offset for place in (*places, len(steps))]
            _points(panel, x, values, COLORS[number % len(COLORS)], measure, line=True)
        _chance(panel, statistic)
        panel.set_xticks(range(len(steps) + 1), [*map(str, steps), "end"])
        panel.set_xlabel("step")
        panel.set_title(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    write_coverage(figure, FINE_TUNINGS)
    return figure


def _row_of_statistics() -> tuple[Figure, Any]:
    figure = PaperFigure(figsize=(1.4 + 2.2 * len(TITLES), 2.4), layout="constrained")
    return figure, figure.subplots(1, len(TITLES), squeeze=False)[0]


def _points(
    panel: Axes, x: list[float], values: list[Agreement], color: str, name: str | None, line: bool = False
) -> None:
    if line:
        panel.plot(x, [agreement.value for agreement in values], color=color, linewidth=0.9, label=name)
    elif name is not None:
        panel.plot([], [], "o", color=color, markersize=3, label=name)
    for place, agreement in zip(x, values, strict=True):
        if math.isfinite(agreement.low):
            panel.plot([place, place], [agreement.low, agreement.high], color=color, linewidth=0.7, alpha=0.7)
        face = color if agreement.adjusted < LEVEL else "white"
        panel.plot([place], [agreement.value], "o", color=color, markersize=3, mfc=face)


def _chance(panel: Axes, statistic: str) -> None:
    level = 0.5 if statistic == "auc" else 0.0
    panel.axhline(level, color="0.5", linewidth=0.7, linestyle=(0, (4, 3)))
    panel.annotate("chance", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
    panel.set_ylim(top=1.05)


def _order(distances: np.ndarray, scores: Scores) -> list[int]:
    """Return the models in the order of the leaves of their tree, cluster by cluster."""
    leaves = leaves_list(tree(distances)).tolist()
    return sorted(leaves, key=lambda model: int(scores.clustering.labels[model]))


def _clusters_in_words(scores: Scores) -> str:
    clustering = scores.clustering
    larger = float(np.nanmax([clustering.p, clustering.p_hull]))
    p = p_value(larger, 2)
    return f"{clustering.count} clusters, {p}" if clustering.count > 1 else f"no clusters, {p}"


def _group_color(findings: Findings, model: int) -> str:
    group = int(findings.truth.labels[model])
    return NONE if group < 0 else COLORS[group % len(COLORS)]


def _cluster_color(scores: Scores, model: int) -> str:
    cluster = int(scores.clustering.labels[model])
    return NONE if cluster < 0 or scores.clustering.count < 2 else COLORS[cluster % len(COLORS)]
