"""The figure of many models: a tree and a map of their distances, from the table of `compare_many`."""

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
    """Draw for each measure a tree and a map of the models. Distances are means over sites at equal depth.

    Args:
        table: the table of `compare_many`, with every pair of at least two models.
        kinds: label -> kind of the model, which sets its color; by default each model is its own kind.

    Raises:
        ValueError: no measure has all distances.

    Example:
        >>> record = {"measure": "cka", "site_a": "embed", "site_b": "embed", "dissimilarity": 0.25}
        >>> table = pa.Table.from_pylist([{"model_a": "solu", "model_b": "gelu", **record}])
        >>> models_figure(table).axes[0].get_title()
        'cka: mean dissimilarity at equal depth'
    """
    by_measure = {measure: model_distances(table, measure) for measure in distinct(table, "measure")}
    complete = {
        measure: (labels, distances)
        for measure, (labels, distances) in by_measure.items()
        if len(labels) > 1 and np.isfinite(distances).all()
    }
    if not complete:
        raise ValueError("expected a table with every pair of models, found no measure that has all distances")
    labels = next(iter(complete.values()))[0]
    kinds = {label: label for label in labels} if kinds is None else kinds
    names = list(dict.fromkeys(kind for label, kind in kinds.items() if label in labels))
    colors = dict(zip(names, mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(names))), strict=True))
    height = max(1.9, 0.13 * len(labels) + 0.5)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.3 + height * len(complete)), layout="constrained")
        axes: Any = figure.subplots(len(complete), 2, squeeze=False, width_ratios=(1.25, 1))
        for (measure, (labels, distances)), (left, right) in zip(complete.items(), axes, strict=True):
            _tree(left, labels, distances, kinds, colors)
            _map(right, labels, distances, kinds, colors)
            left.set_title(f"{measure}: mean dissimilarity at equal depth")
        if len(names) < len(labels):
            handles, shown = axes[0, 1].get_legend_handles_labels()
            figure.legend(handles, shown, loc="outside right upper", frameon=False)
    return figure


def _tree(panel: Axes, labels: list[str], distances: np.ndarray, kinds: Mapping[str, str], colors: Any) -> None:
    """Draw the tree with its leaves on the left, joined at their mean distance."""
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
    """Draw the models in the plane that holds most of their distances."""
    points, share = plane(distances)
    for kind, color in colors.items():
        members = [index for index, label in enumerate(labels) if kinds[label] == kind]
        panel.plot(*points[members].T, "o", color=color, markersize=4.5, label=kind)
    if len(colors) == len(labels):
        for label, (x, y) in zip(labels, points, strict=True):
            panel.annotate(label, (x, y), (4, 3), textcoords="offset points", fontsize=6, color="0.25")
    panel.set_aspect("equal", "datalim")
    panel.margins(0.15)
    panel.set_title(f"a plane with {share:.0%} of the squared distances")
