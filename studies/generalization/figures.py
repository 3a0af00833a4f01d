"""The figures of the study `generalization`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dissimilarity.figures.embedding import tree
from dissimilarity.figures.style import STYLE, short_names
from studies.generalization.agreement import Agreement
from studies.generalization.numbers import ALL, Findings, Found, band, kinds_of_pairs

GOOD, BAD, ACROSS, BACK = "#3b528b", "#d1495b", "#edae49", "#66a182"
COLORS = (GOOD, BAD, ACROSS, BACK, "#8d6a9f", "#2e4057")
NONE = "0.6"
SCIENTIFIC = (-2, 3)
"""Powers of ten beyond which numbers at an axis share a factor: barriers may be of 1e-4."""
MARKERS = ("o", "s", "^", "D", "v", "P")
WORDS = {"ari": "adjusted Rand index", "auc": "AUC, across against within", "spearman": "Spearman, with the gap"}


def figures(found: Findings) -> dict[str, Figure]:
    """Every figure by file name."""
    made: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        made["layers"] = _layers(found)
        if len(found.stitched) > 1:
            made["stitched_elsewhere"] = _stitched(found)
        made["distances"] = _distances(found)
        made["accuracies"] = _accuracies(found)
        made["agreement"] = _agreement(found)
        if found.soon:
            made["steps"] = _steps(found)
    return made


def _layers(found: Findings) -> Figure:
    """In distribution: accuracy of stitched models by layers taken from the front, and each measure by layer."""
    first = next(iter(found.stitched), None)
    count = len(found.measures) + (first is not None)
    figure = Figure(figsize=(1.6 + 2.3 * count, 2.5), layout="constrained")
    axes: Any = figure.subplots(1, count, squeeze=False)[0]
    if first is not None:
        _curves(axes[0], found.stitched[first])
        axes[0].set_title("identity stitching, in distribution")
        axes[0].set_ylabel("accuracy")
        lines = axes[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside right lower", frameon=False, title="stitched, front to back")
    kind, names = short_names(found.sites)
    groups = kinds_of_pairs(found.truth)
    for panel, measure in zip(axes[1:] if first is not None else axes, found.measures, strict=True):
        for (name, pairs), color in zip(groups.items(), (GOOD, BAD, ACROSS), strict=False):
            if pairs:
                a, b = np.array(pairs).T
                _band(panel, found.distances[measure][:, a, b].T, color, name)
        parting = found.parting.get(measure)
        if parting is not None and parting.first is not None:
            panel.axvline(parting.first, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
            panel.annotate(
                "apart",
                (parting.first, 1),
                (3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=6,
                color="0.4",
                va="top",
            )
        panel.set_xticks(range(len(names)), names)
        panel.set_xlabel(kind)
        panel.set_ylim(bottom=0)
        panel.set_title(measure)
        panel.set_ylabel("dissimilarity, in distribution" if panel is axes[-len(found.measures)] else "")
    handles, shown = axes[-1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, shown, loc="outside right upper", frameon=False, title="pairs of models")
    return figure


def _stitched(found: Findings) -> Figure:
    """The same stitched models on every split out of distribution."""
    splits = list(found.stitched)[1:]
    columns = min(3, len(splits))
    rows = math.ceil(len(splits) / columns)
    figure = Figure(figsize=(1.7 + 2.1 * columns, 0.5 + 1.75 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for panel, split in zip(axes, splits, strict=False):
        _curves(panel, found.stitched[split])
        panel.set_title(split)
        panel.set_ylim(-0.03, 1.03)
    for panel in list(axes)[len(splits) :]:
        panel.remove()
    figure.supylabel("accuracy", fontsize=8)
    figure.supxlabel("layers taken from the front", fontsize=8)
    for panel in figure.axes:
        panel.set_xlabel("")
    handles, shown = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside right upper", frameon=False, title="front to back")
    return figure


def _curves(panel: Axes, curves: Mapping[tuple[str, str], np.ndarray]) -> None:
    """One band each kind of pair, over the number of layers in front."""
    colors = _colors_of_stitches(list(curves))
    for kind, values in curves.items():
        _band(panel, values, colors[kind], f"{kind[0]} to {kind[1]}")
    layers = next(iter(curves.values())).shape[1]
    panel.set_xticks(range(0, layers, max(1, (layers - 1) // 6)))
    panel.set_xlabel("layers taken from the front")


def _colors_of_stitches(kinds: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    first = kinds[0][0]
    own = {True: GOOD, False: BAD}
    return {(a, b): own[a == first] if a == b else (ACROSS if a == first else BACK) for a, b in kinds}


def _band(panel: Axes, values: np.ndarray, color: str, name: str) -> None:
    mean, low, high = band(values)
    panel.fill_between(range(len(mean)), low, high, color=color, alpha=0.18, linewidth=0)
    panel.plot(range(len(mean)), mean, "o-", color=color, markersize=2.5, label=name)


def _distances(found: Findings) -> Figure:
    """Every measure over all layers: the matrix, ordered by its own tree, and its pairs within and across."""
    groups, count = kinds_of_pairs(found.truth), len(found.ways)
    figure = Figure(figsize=(1.2 + 1.9 * count, 4.1), layout="constrained")
    axes: Any = figure.subplots(2, count, squeeze=False, height_ratios=(1, 1))
    chance = np.random.default_rng(0)
    for column, way in enumerate(found.ways):
        far, result = found.whole[way], found.found[way, ALL]
        order = _order(far, result)
        panel: Axes = axes[0, column]
        image = panel.imshow(far[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=far.max() or 1)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
        for place, model in enumerate(order):
            panel.plot([-1.2], [place], "s", color=_true_color(found, model), markersize=2.6, clip_on=False)
            panel.plot([place], [-1.2], "s", color=_found_color(result, model), markersize=2.6, clip_on=False)
        panel.set_xlim(-1.7, len(order) - 0.5)
        panel.set_ylim(len(order) - 0.5, -1.7)
        panel.set_title(f"{way}\n{_said(result)}")
        bar = figure.colorbar(image, ax=panel, location="bottom", aspect=18, pad=0.03)
        bar.ax.tick_params(labelsize=5.5)
        bar.ax.ticklabel_format(axis="x", scilimits=SCIENTIFIC)
        bar.ax.xaxis.get_offset_text().set_fontsize(5.5)
        bar.ax.spines[:].set_visible(False)
        panel = axes[1, column]
        for place, ((_, pairs), color) in enumerate(zip(groups.items(), (GOOD, BAD, ACROSS), strict=False)):
            values = [far[pair] for pair in pairs]
            if values:
                x = place + chance.uniform(-0.2, 0.2, len(values))
                panel.plot(x, values, "o", color=color, markersize=1.8, alpha=0.6)
                panel.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color="0.2", linewidth=1)
        panel.ticklabel_format(axis="y", scilimits=SCIENTIFIC)
        panel.set_xticks(range(len(groups)), [name.replace(" ", "\n", 1) for name in groups], fontsize=6)
        panel.set_xlim(-0.6, max(len(groups), 1) - 0.4)
        if column == 0:
            panel.set_ylabel("distance, pairs of models")
            axes[0, 0].set_ylabel("models, as the tree has them\nleft: true group, top: found group", fontsize=6.5)
    return figure


def _accuracies(found: Findings) -> Figure:
    """Accuracy in and out of distribution; a panel each measure: the shape is the true group, the color the found."""
    inside = next(iter(found.accuracies.values()))
    figure = Figure(figsize=(1.5 + 1.9 * len(found.ways), 2.3), layout="constrained")
    axes: Any = figure.subplots(1, len(found.ways), squeeze=False, sharex=True, sharey=True)[0]
    for panel, way in zip(axes, found.ways, strict=True):
        result = found.found[way, ALL]
        for model in range(len(found.models)):
            group = int(found.truth.labels[model])
            panel.plot(
                [inside[model]],
                [found.truth.accuracy[model]],
                MARKERS[group % len(MARKERS)] if group >= 0 else "x",
                color=_found_color(result, model),
                markersize=4,
                alpha=0.8,
                markeredgewidth=0.6,
            )
        panel.set_title(f"{way}\n{_said(result)}")
        panel.margins(0.12)
    figure.supxlabel("accuracy in distribution", fontsize=8)
    axes[0].set_ylabel(found.truth.split)
    dark: Any = {"linewidth": 0, "color": "0.3", "markersize": 4}
    handles = [Line2D([], [], marker=MARKERS[n % len(MARKERS)], **dark) for n in range(len(found.truth.names))]
    names = [f"true: {name}" for name in found.truth.names]
    if (found.truth.labels < 0).any():
        handles.append(Line2D([], [], marker="x", **dark))
        names.append("true: neither")
    most = max(found.found[way, ALL].grouping.count for way in found.ways)
    for group in range(most if most > 1 else 0):
        handles.append(Line2D([], [], marker="o", linewidth=0, color=COLORS[group % len(COLORS)], markersize=4))
        names.append(f"found: group {group + 1}")
    handles.append(Line2D([], [], marker="o", linewidth=0, color=NONE, markersize=4))
    names.append("found: no group")
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return figure


def _agreement(found: Findings) -> Figure:
    """Each statistic by layer, with its interval; full points where it is beyond chance."""
    figure = Figure(figsize=(1.4 + 2.2 * len(WORDS), 2.4), layout="constrained")
    axes: Any = figure.subplots(1, len(WORDS), squeeze=False)[0]
    kind, names = short_names(found.sites)
    for panel, (statistic, words) in zip(axes, WORDS.items(), strict=True):
        for place, way in enumerate(found.ways):
            color = COLORS[place % len(COLORS)]
            shift = 0.09 * (place - (len(found.ways) - 1) / 2)
            if way in found.measures:
                values = [found.found[way, site].agreement[statistic] for site in found.sites]
                _points(panel, [x + shift for x in range(len(values))], values, color, way, line=True)
            last = [found.found[way, ALL].agreement[statistic]]
            _points(panel, [len(names) + 0.5 + shift], last, color, None if way in found.measures else way)
        _chance(panel, statistic)
        panel.set_xticks([*range(len(names)), len(names) + 0.5], [*names, "all"])
        panel.set_xlabel(kind)
        panel.set_title(words)
    handles, shown = axes[0].get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside right upper", frameon=False)
    return figure


def _steps(found: Findings) -> Figure:
    """Each statistic over all layers by step of the fine-tuning, the end of it last."""
    figure = Figure(figsize=(1.4 + 2.2 * len(WORDS), 2.4), layout="constrained")
    axes: Any = figure.subplots(1, len(WORDS), squeeze=False)[0]
    steps = list(found.soon)
    for panel, (statistic, words) in zip(axes, WORDS.items(), strict=True):
        for place, measure in enumerate(found.measures):
            shift = 0.06 * (place - (len(found.measures) - 1) / 2)
            there = [found.soon[step][measure] for step in steps if measure in found.soon[step]]
            at = [index for index, step in enumerate(steps) if measure in found.soon[step]]
            values = [each.agreement[statistic] for each in (*there, found.found[measure, ALL])]
            x = [index + shift for index in (*at, len(steps))]
            _points(panel, x, values, COLORS[place % len(COLORS)], measure, line=True)
        _chance(panel, statistic)
        panel.set_xticks(range(len(steps) + 1), [*(f"{step}" for step in steps), "end"])
        panel.set_xlabel("step")
        panel.set_title(words)
    handles, shown = axes[0].get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside right upper", frameon=False)
    return figure


def _points(
    panel: Axes, x: list[float], values: list[Agreement], color: str, name: str | None, line: bool = False
) -> None:
    if line:
        panel.plot(x, [each.value for each in values], color=color, linewidth=0.9, label=name)
    elif name is not None:
        panel.plot([], [], "o", color=color, markersize=3, label=name)
    for place, each in zip(x, values, strict=True):
        if math.isfinite(each.low):
            panel.plot([place, place], [each.low, each.high], color=color, linewidth=0.7, alpha=0.7)
        panel.plot([place], [each.value], "o", color=color, markersize=3, mfc=color if each.p < 0.05 else "white")


def _chance(panel: Axes, statistic: str) -> None:
    level = 0.5 if statistic == "auc" else 0.0
    panel.axhline(level, color="0.5", linewidth=0.7, linestyle=(0, (4, 3)))
    panel.annotate("chance", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
    panel.set_ylim(top=1.05)


def _order(far: np.ndarray, result: Found) -> list[int]:
    """The models as the tree of their distances has its leaves, group by group."""
    from scipy.cluster.hierarchy import leaves_list

    leaves = leaves_list(tree(far)).tolist()
    return sorted(leaves, key=lambda model: int(result.grouping.labels[model]))


def _said(result: Found) -> str:
    """How many groups were found, in a few words."""
    grouping = result.grouping
    p = "p < 0.01" if grouping.p < 0.01 else f"p = {grouping.p:.2f}"
    return f"{grouping.count} groups, {p}" if grouping.count > 1 else f"no groups, {p}"


def _true_color(found: Findings, model: int) -> str:
    group = int(found.truth.labels[model])
    return NONE if group < 0 else COLORS[group % len(COLORS)]


def _found_color(result: Found, model: int) -> str:
    group = int(result.grouping.labels[model])
    return NONE if group < 0 or result.grouping.count < 2 else COLORS[group % len(COLORS)]
