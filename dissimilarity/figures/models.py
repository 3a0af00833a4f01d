"""The figure of many models: a tree and a map of how far they are from each other, from the table of `compare_many`."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from dissimilarity.figures.embedding import model_distances, plane, tree
from dissimilarity.figures.style import STYLE
from dissimilarity.tables.curves import distinct


def models_figure(table: pa.Table, kinds: Mapping[str, str] | None = None) -> Figure:
    """Draw for each measure a tree of the models and a map of them; distances are means over sites at equal depth.

    Args:
        table: of `compare_many`, every two models of at least two.
        kinds: label -> what the models of one color have in common; by default each model has its own.

    Raises:
        ValueError: no measure has all distances.
    """
    found = {measure: model_distances(table, measure) for measure in distinct(table, "measure")}
    whole = {measure: each for measure, each in found.items() if len(each[0]) > 1 and np.isfinite(each[1]).all()}
    if not whole:
        raise ValueError("expected a table with every two models, found none that has all distances of a measure")
    labels = next(iter(whole.values()))[0]
    kinds = {label: label for label in labels} if kinds is None else kinds
    names = list(dict.fromkeys(kind for label, kind in kinds.items() if label in labels))
    colors = dict(zip(names, mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(names))), strict=True))
    height = max(1.9, 0.13 * len(labels) + 0.5)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.3 + height * len(whole)), layout="constrained")
        axes: Any = figure.subplots(len(whole), 2, squeeze=False, width_ratios=(1.25, 1))
        for (measure, (labels, distances)), (left, right) in zip(whole.items(), axes, strict=True):
            _tree(left, labels, distances, kinds, colors)
            _map(right, labels, distances, kinds, colors)
            left.set_title(f"{measure}: mean dissimilarity at equal depth")
        if len(names) < len(labels):
            handles, shown = axes[0, 1].get_legend_handles_labels()
            figure.legend(handles, shown, loc="outside right upper", frameon=False)
    return figure


def _tree(panel: Axes, labels: list[str], distances: np.ndarray, kinds: Mapping[str, str], colors: Any) -> None:
    """The tree, leaves downwards on the left, joined at their mean distance."""
    drawn = dendrogram(tree(distances), no_plot=True, labels=labels)
    for along, across in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        panel.plot(along, across, color="0.35", linewidth=0.9)
    places = 5 + 10 * np.arange(len(labels))
    panel.set_yticks(places, drawn["ivl"])
    for tick, label in zip(panel.get_yticklabels(), drawn["ivl"], strict=True):
        tick.set_color(colors[kinds[label]] * (0.8, 0.8, 0.8, 1))
    panel.set_ylim(0, 10 * len(labels))
    panel.set_xlim(left=0)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)


def _map(panel: Axes, labels: list[str], distances: np.ndarray, kinds: Mapping[str, str], colors: Any) -> None:
    """The models in the plane that holds most of their distances."""
    points, share = plane(distances)
    for kind, color in colors.items():
        chosen = [index for index, label in enumerate(labels) if kinds[label] == kind]
        panel.plot(*points[chosen].T, "o", color=color, markersize=4.5, label=kind)
    if len(colors) == len(labels):
        for label, (x, y) in zip(labels, points, strict=True):
            panel.annotate(label, (x, y), (4, 3), textcoords="offset points", fontsize=6, color="0.25")
    panel.set_aspect("equal", "datalim")
    panel.margins(0.15)
    panel.set_title(f"a plane with {share:.0%} of the squared distances")
