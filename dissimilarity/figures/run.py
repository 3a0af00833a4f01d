"""The figures of a run, drawn from its tables alone.

`curves*` shows every reference (columns) by every measure (rows), with one line per pair of sites at equal relative
depth. `heatmap_*` shows all pairs of sites at several steps, one figure per reference. `groups` shows toward which
reference group a model drifts. `intrinsic` shows the measures of one model alone. Figures are drawn to files without
pyplot, so its backend and open figures are not touched.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from dissimilarity.capture.site_names import split_layer
from dissimilarity.figures.curves import curves_figure
from dissimilarity.figures.drift import groups_figure
from dissimilarity.figures.figure import Format, write_figure
from dissimilarity.figures.heatmaps import heatmap_figure, heatmap_pages
from dissimilarity.figures.intrinsic import intrinsic_figure
from dissimilarity.figures.maps import Dark, Scale
from dissimilarity.figures.style import file_name, without_layer
from dissimilarity.inference.drift import FILE as GROUPS
from dissimilarity.inference.drift import read_groups
from dissimilarity.tables.curves import INTRINSIC, distinct, read_curves, rows_with, select
from dissimilarity.tables.journal import Journal

REFERENCES, MEASURES = 4, 7
"""Columns and rows of one figure of curves, which is 15 inches high at most."""


def draw_run(
    run_folder: str | Path,
    formats: Sequence[Format] = ("png", "pdf"),
    *,
    scale: Scale = "null",
    dark: Dark = "same",
) -> list[Path]:
    """Draw all figures of a run into its folder `figures` and return their paths; none if it has no curves.

    Each file is replaced in one step, so a viewer never sees a half-written figure.

    Args:
        run_folder: folder of the run.
        formats: any of `png`, `pdf` and `svg`.
        scale: as for `heatmap_figure`.
        dark: as for `heatmap_figure`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_run(folder)
        []
    """
    folder = Path(run_folder)
    try:
        table = read_curves(folder)
    except ValueError:
        return []
    model, alone = folder.resolve().name, Journal(folder / INTRINSIC).read()
    shares = [{**record, "share": record["value"]} for record in alone if record["measure"] == "first_component_share"]
    figures = run_figures(table, model, shares, scale=scale, dark=dark)
    if alone:
        figures["intrinsic"] = intrinsic_figure(alone, model)
    if (folder / GROUPS).exists():
        figures["groups"] = groups_figure(read_groups(folder), model)
    return [
        path for name, figure in figures.items() for path in write_figure(figure, folder / "figures", name, formats)
    ]


def run_figures(
    table: pa.Table,
    model: str,
    shares: Sequence[Mapping[str, Any]] = (),
    *,
    scale: Scale = "null",
    dark: Dark = "same",
) -> dict[str, Figure]:
    """Return every figure of a curves table by file name: curves by kind of site, heat maps by reference.

    Many references or measures take several figures each.

    Args:
        table: records of the curves schema.
        model: name of the model in training, for the axes.
        shares: as for `heatmap_figure`.
        scale: as for `heatmap_figure`.
        dark: as for `heatmap_figure`.
    """
    figures: dict[str, Figure] = {}
    references = distinct(table, "reference")
    by_kind = _sites_by_kind(distinct(table, "site_a"))
    for kind, sites in by_kind.items():
        records = rows_with(table, "site_a", sites)
        pages = product(_pages(distinct(records, "measure"), MEASURES), _pages(references, REFERENCES))
        for number, (rows, columns) in enumerate(pages, 1):
            name = _numbered(["curves", *([kind] if len(by_kind) > 1 else [])], number, figures)
            figures[name] = curves_figure(rows_with(records, "measure", rows), columns, model)
    for reference in references:
        for number, page in enumerate(heatmap_pages(select(table, reference=reference)), 1):
            name = _numbered(["heatmap", reference], number, figures)
            figures[name] = heatmap_figure(page, model, shares, scale=scale, dark=dark)
    return figures


def _pages(items: list[str], size: int) -> list[list[str]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _numbered(parts: list[str], number: int, figures: Mapping[str, Figure]) -> str:
    """Return a file name that ends with the number of the page, from 2 on."""
    return file_name([*parts, *([str(number)] if number > 1 else [])], figures)


def _sites_by_kind(sites: list[str]) -> dict[str, list[str]]:
    """Return the sites that share a figure, by kind. Sites without a layer join the others if there is one kind."""
    by_kind: dict[str, list[str]] = {}
    for site in sites:
        kind, layer = split_layer(site)
        by_kind.setdefault("other" if layer is None else without_layer(kind), []).append(site)
    return {"all": sites} if len(by_kind.keys() - {"other"}) <= 1 else by_kind
