"""Figures of the study `compare`."""

from collections.abc import Mapping

import pyarrow as pa
from matplotlib.figure import Figure

from dissimilarity.figures.comparison import comparison_figure
from dissimilarity.figures.models import model_pages, models_figure
from dissimilarity.figures.options import FigureOptions
from dissimilarity.figures.style import file_name
from dissimilarity.tables.curves import distinct

MEASURES_PER_FIGURE = 20


def figures(table: pa.Table, tables: Mapping[tuple[str, str], pa.Table], options: FigureOptions) -> dict[str, Figure]:
    """Return every figure by file name.

    Args:
        table: the whole table.
        tables: the table of each pair of models.
        options: the colors of heat maps.
    """
    drawn: dict[str, Figure] = {}
    for (a, b), pair in tables.items():
        measures = distinct(pair, "measure")
        for first in range(0, len(measures), MEASURES_PER_FIGURE):
            page = measures[first : first + MEASURES_PER_FIGURE]
            on_page = pa.array([measure in page for measure in pair["measure"].to_pylist()], pa.bool_())
            number = [str(1 + first // MEASURES_PER_FIGURE)] if first else []
            drawn[file_name(["heatmap", a, b, *number], drawn)] = comparison_figure(
                pair.filter(on_page), a, b, scale=options.scale, dark=options.dark
            )
    for number, page in enumerate(model_pages(table) if len(tables) > 1 else [], 1):
        drawn[file_name(["models", *([str(number)] if number > 1 else [])], drawn)] = models_figure(page)
    return drawn
