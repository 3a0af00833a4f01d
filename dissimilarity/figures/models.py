"""The figure of many models: a tree and a map of their distances, from the table of `compare_many`."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import dendrogram, leaves_list

from dissimilarity.figures.embedding import model_distances, plane, tree
from dissimilarity.figures.figure import in_style
from dissimilarity.figures.labels import place_labels
from dissimilarity.figures.layout import Ax, Frame, Legend, Size, make_panels, widest
from dissimilarity.figures.style import GROUP_COLORS
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.tables.curves import distinct, rows_with
from dissimilarity.tables.result import AnyTable, as_arrow

WIDTH, LEAF = 2.5, 0.13
"""Inches of a panel, and per model in the tree."""
HIGHEST = 13.5
"""Inches of all panels of one figure."""
MARKERS = ("o", "s", "^", "D", "v", "P")
NAMED = 12
"""Models whose names stand at their points; more have the numbers that stand at their names in the tree."""


@in_style()
def models_figure(
    table: AnyTable,
    kinds: Mapping[str, str] | None = None,
    *,
    figsize: Size | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw for each measure a tree and a map of the models. Distances are means over sites at equal depth.

    Args:
        table: the table of `compare_many`, with every pair of at least two models.
        kinds: label -> kind of the model, which sets its color and mark; by default models are told apart by names.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, two per measure.

    Raises:
        ValueError: no measure has all distances.

    Examples:
        >>> record = {"measure": "cka", "site_a": "embed", "site_b": "embed", "dissimilarity": 0.25}
        >>> table = pa.Table.from_pylist([{"model_a": "solu", "model_b": "gelu", **record}])
        >>> models_figure(table).axes[0].get_xlabel()
        '1 - CKA, mean at equal depth'
    """
    complete = _complete(as_arrow(table))
    if not complete:
        raise ValueError("expected a table with every pair of models, found no measure that has all distances")
    labels = next(iter(complete.values()))[0]
    styles = _styles(labels, kinds)
    legends = []
    if kinds is not None and len(set(kinds.values())) < len(labels):
        handles = [(kind, Line2D([], [], linewidth=0, markersize=4.5, **style)) for kind, style in styles.items()]
        legends = [Legend("", handles)]
    height = _height(len(labels))
    frame = Frame(left=widest(labels) + 0.3, top=0.12, across=0.15, between=0.6, bottom=0.6, legends=legends)
    figure, axes = make_panels(len(complete), 2, (WIDTH, height), frame, figsize, ax)
    for (measure, (names, distances)), (left, right) in zip(complete.items(), axes, strict=True):
        order = leaves_list(tree(distances)).tolist()
        numbers = {names[model]: str(place) for place, model in enumerate(order[::-1], 1)}
        is_named = _map(figure, right, names, distances, kinds, styles, numbers)
        _tree(figure, left, names, distances, {} if is_named else numbers)
        letters = int(16 * left.get_position().width * figure.get_figwidth())
        left.set_xlabel(fill(f"{dissimilarity_title(measure)}, mean at equal depth", letters))
    return figure


def model_pages(table: AnyTable) -> list[pa.Table]:
    """Return the table of `compare_many` with as many measures at a time as one figure has space for."""
    table = as_arrow(table)
    complete = _complete(table)
    names = max((labels for labels, _ in complete.values()), key=len, default=[])
    count, measures = max(1, int(HIGHEST / (_height(len(names)) + 0.5))), list(complete)
    return [rows_with(table, "measure", measures[first : first + count]) for first in range(0, len(measures), count)]


def _complete(table: pa.Table) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return labels and distances of each measure that has all of them."""
    by_measure = {measure: model_distances(table, measure) for measure in distinct(table, "measure")}
    return {
        measure: (labels, distances)
        for measure, (labels, distances) in by_measure.items()
        if len(labels) > 1 and np.isfinite(distances).all()
    }


def _height(count: int) -> float:
    return min(HIGHEST, max(1.7, LEAF * count + 0.2))


def _styles(labels: list[str], kinds: Mapping[str, str] | None) -> dict[str, dict[str, Any]]:
    """Return the mark of each kind: a color, then the next shape in the same colors."""
    names = dict.fromkeys(kind for label, kind in kinds.items() if label in labels) if kinds else {}
    count = len(GROUP_COLORS)
    return {
        kind: {"color": GROUP_COLORS[index % count], "marker": MARKERS[index // count % len(MARKERS)]}
        for index, kind in enumerate(names)
    }


def _tree(figure: Figure, panel: Axes, labels: list[str], distances: np.ndarray, numbers: Mapping[str, str]) -> None:
    """Draw the tree with its leaves on the left, joined at their mean distance."""
    drawn = dendrogram(tree(distances), no_plot=True, labels=labels)
    for along, across in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        panel.plot(along, across, color="0.35", linewidth=0.9)
    names = [f"{label}  {numbers[label]}" if numbers else label for label in drawn["ivl"]]
    leaf = 72 * panel.get_position().height * figure.get_figheight() / len(labels)
    panel.set_yticks(5 + 10 * np.arange(len(labels)), names, fontsize=min(7, 0.8 * leaf))
    panel.set_ylim(0, 10 * len(labels))
    panel.set_xlim(left=0)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)


def _map(
    figure: Figure,
    panel: Axes,
    labels: list[str],
    distances: np.ndarray,
    kinds: Mapping[str, str] | None,
    styles: Mapping[str, Any],
    numbers: Mapping[str, str],
) -> bool:
    """Draw the models in the plane that holds most of their distances, and return whether names stand there."""
    points, share = plane(distances)
    box = np.multiply(panel.get_position().size, figure.get_size_inches())
    # Equal scales, with some space for labels around the points.
    scale = max(np.ptp(points, 0) / (0.75 * box)) or 1.0
    low = (points.min(0) + points.max(0)) / 2 - scale * box / 2
    panel.set(xlim=(low[0], low[0] + scale * box[0]), ylim=(low[1], low[1] + scale * box[1]), xticks=[], yticks=[])
    panel.set_xlabel(fill(f"a plane with {share:.0%} of the squared distances", int(16 * box[0])))
    panel.spines[:].set_visible(False)
    for label, point in zip(labels, points, strict=True):
        style: Any = styles[kinds[label]] if kinds else {"color": GROUP_COLORS[0], "marker": "o"}
        panel.plot(*point[:, None], markersize=4.5, linewidth=0, **style)
    if kinds is not None and len(styles) < len(labels):
        return True
    inches = (points - low) / scale
    texts = labels
    places = _places(inches, texts, box) if len(labels) <= NAMED else None
    is_named = places is not None and bool(np.isfinite(places).all())
    if not is_named:
        texts = [numbers[label] for label in labels]
        places = _places(inches, texts, box)
    assert places is not None
    for text, point, place in zip(texts, inches, places, strict=True):
        if np.isfinite(place).all():
            _label(panel, text, point * scale + low, place * scale + low, float(np.hypot(*(place - point))))
    return is_named


def _places(points: np.ndarray, texts: list[str], box: np.ndarray) -> np.ndarray:
    return place_labels(points, np.array([(widest([text], 6.0) + 0.01, 0.1) for text in texts]), box)


def _label(panel: Axes, text: str, point: np.ndarray, place: np.ndarray, distance: float) -> None:
    """Write a label, with a line to its point if that is not beside it."""
    if distance > widest([text], 6.0) / 2 + 0.15:
        panel.plot(*np.stack([point, place], 1), color="0.7", linewidth=0.4, zorder=1)
    background: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
    panel.text(place[0], place[1], text, ha="center", va="center", fontsize=6, color="0.25", bbox=background)
