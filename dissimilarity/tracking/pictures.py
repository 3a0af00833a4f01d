"""The heat maps of one tick as images, for loggers that show one image per step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from dissimilarity.figures.heatmaps import heatmap_figure
from dissimilarity.tables.curves import distinct, heatmap_steps, select

COLUMNS = ("step", "reference", "measure", "site_a", "site_b", "value", "dissimilarity", "null")


def heatmap_pictures(records: Sequence[Mapping[str, Any]], model: str) -> dict[str, NDArray[np.uint8]]:
    """Return an image (height, width, 3) per reference that is compared at all pairs of sites.

    Args:
        records: records of the curves of one tick.
        model: name of the model in training, for the axis.

    Example:
        >>> row = {"step": 0, "reference": "init", "measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2}
        >>> pairs = [(a, b) for a in ("layers.0", "layers.1") for b in ("layers.0", "layers.1")]
        >>> heatmap_pictures([{**row, "site_a": a, "site_b": b} for a, b in pairs], "solu")["init"].shape[-1]
        3
    """
    table = pa.Table.from_pylist([{column: record[column] for column in COLUMNS} for record in records])
    pictures = {}
    for reference in distinct(table, "reference") if records else ():
        rows = select(table, reference=reference)
        measures = [name for name in distinct(rows, "measure") if heatmap_steps(select(rows, measure=name))]
        if measures:
            rows = rows.filter(pa.array([name in measures for name in rows["measure"].to_pylist()], pa.bool_()))
            canvas = FigureCanvasAgg(heatmap_figure(rows, model))
            canvas.draw()
            pictures[reference] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pictures
