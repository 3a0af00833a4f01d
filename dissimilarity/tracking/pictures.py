"""The heat maps of one tick as images, for loggers that show one image per step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dissimilarity.figures.figure import pixels_of
from dissimilarity.figures.heatmaps import heatmap_figure, heatmap_pages
from dissimilarity.figures.options import PNG, FigureOptions
from dissimilarity.tables.curves import OPTIONAL, distinct, select

DPI = 120.0
"""Pixels per inch, enough for the screen on which a logger shows an image."""

COLUMNS = (
    *("step", "reference", "reference_step", "measure", "site_a", "site_b"),
    *("value", "dissimilarity", "stderr", "n_units", "null"),
)


def heatmap_pictures(
    records: Sequence[Mapping[str, Any]], model: str, options: FigureOptions = PNG
) -> dict[str, NDArray[np.uint8]]:
    """Return an image (height, width, 3) per reference that is compared at all pairs of sites; more with many measures.

    A reference that is the model itself, as `init` at step 0, has none.

    Args:
        records: records of the curves of one tick.
        model: name of the model in training, for the axis.
        options: the colors.

    Examples:
        >>> row = {"step": 1, "reference": "init", "measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2}
        >>> pairs = [(a, b) for a in ("layers.0", "layers.1") for b in ("layers.0", "layers.1")]
        >>> heatmap_pictures([{**row, "site_a": a, "site_b": b} for a, b in pairs], "solu")["init"].shape[-1]
        3
    """
    rows = [{column: record.get(column, OPTIONAL.get(column)) for column in COLUMNS} for record in records]
    table = pa.Table.from_pylist(rows)
    pictures = {}
    for reference in distinct(table, "reference") if records else ():
        for number, page in enumerate(heatmap_pages(select(table, reference=reference)), 1):
            figure = heatmap_figure(page, model, scale=options.scale, dark=options.dark)
            pictures[f"{reference}_{number}" if number > 1 else reference] = pixels_of(figure, DPI)
    return pictures
