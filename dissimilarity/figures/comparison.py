"""The figure of a comparison: one heat map per measure of all pairs of sites, from the table of `compare`."""

import math
from textwrap import fill

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dissimilarity.capture.sites import LOGITS
from dissimilarity.figures.figure import in_style
from dissimilarity.figures.heatmaps import fill_below, fill_beside, holds_null, label_each_map, label_maps
from dissimilarity.figures.layout import LINE, Ax, Frame, Size, make_panels
from dissimilarity.figures.maps import (
    BAR,
    NO_NULL,
    STRIPS,
    Dark,
    Floats,
    Scale,
    draw_bar,
    draw_map,
    draw_shares,
    has_strips,
    margin,
    palette,
    space_for_names,
)
from dissimilarity.figures.style import short_names
from dissimilarity.measures.titles import title
from dissimilarity.tables.curves import distinct, grid, select
from dissimilarity.tables.curves import scale as scale_of
from dissimilarity.tables.result import AnyTable, as_arrow

WIDTH = 7.8
"""Width in inches, about that of a page of a paper."""


@in_style()
def comparison_figure(
    table: AnyTable,
    name_a: str,
    name_b: str,
    *,
    scale: Scale = "null",
    dark: Dark = "same",
    figsize: Size | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw the table of one comparison: measures side by side, sites of `name_a` as rows and of `name_b` as columns.

    Each measure shows its values as in the literature, on its own color scale, with dark = same. The color bar marks
    the value of identical representations, the mean null, and that of the most similar pair of sites in each
    rearrangement (best). Cells are hatched where the 95% interval holds the null. Strips beside the site names show
    each site's share of variance in its first principal component if one is above 0.5. Output measures have one value,
    written below.

    Args:
        table: the table that `compare` returns.
        name_a: name of the first model.
        name_b: name of the second model.
        scale: `null`: colors from identical to the null; `data`: from the smallest value to the largest.
        dark: whether dark cells are the `same` or `different`.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, one per measure; its `layout="compressed"` makes space for labels.

    Raises:
        ValueError: a table without records, or another number of axes than measures.

    Examples:
        >>> sites = ["blocks.0.resid_post", "blocks.1.resid_post"]
        >>> cka = {"measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2, "note": ""}
        >>> table = pa.Table.from_pylist([{**cka, "site_a": a, "site_b": b} for a in sites for b in sites])
        >>> comparison_figure(table, "solu", "gelu").axes[0].get_title()
        'CKA'
    """
    table = as_arrow(table)
    if not table.num_rows:
        raise ValueError("expected the table of a comparison, found one without records; pass what compare() returns")
    of_sites = table.filter(pa.array([site != LOGITS for site in table["site_a"].to_pylist()], pa.bool_()))
    shown = of_sites if of_sites.num_rows else table
    measures, sites_a, sites_b = (distinct(shown, column) for column in ("measure", "site_a", "site_b"))
    shares = _shares(shown, sites_a, sites_b)
    cell, rows, columns = _grid_of_maps(len(measures), (len(sites_a), len(sites_b)), figsize)
    strip = margin(cell) if shares else 0.0
    (kind_a, names_a), (kind_b, names_b) = short_names(sites_a), short_names(sites_b)
    records = [select(shown, measure=measure) for measure in measures]
    outputs = _outputs(table.filter(pa.array([measure not in measures for measure in table["measure"].to_pylist()])))
    any_hatched = any(holds_null(record, sites_a, sites_b).any() for record in records)
    notes = [f"{name_b}: {kind_b}", outputs, STRIPS if shares else "", NO_NULL if any_hatched else ""]
    notes = [note for note in notes if note]
    name_left, name_below = space_for_names(names_a, names_b)
    titles = [fill(title(measure), max(14, int(16 * (cell * len(sites_b) + 0.5)))) for measure in measures]
    lines = max(text.count("\n") + 1 for text in titles)
    size = max(cell * len(sites_b), 0.3), max(cell * len(sites_a), 0.7)
    label = f"{name_a}: {kind_a}"
    left = fill_beside(label, rows * (size[1] + 0.2), figsize)
    margin_left = 0.1 + LINE * (left.count("\n") + 1) + name_left + strip
    panels_width = columns * size[0] + (columns - 1) * (BAR + strip)
    below = fill_below(notes, panels_width, margin_left, figsize)
    frame = Frame(
        left=margin_left,
        right=BAR,
        bottom=name_below + strip + LINE * (below.count("\n") + 1) + 0.08,
        top=0.12 + LINE * lines,
        across=BAR + strip,
        between=0.14 + LINE * lines + strip,
    )
    figure, axes = make_panels(rows, columns, size, frame, figsize, ax, sharex=True, sharey=True)
    panels = list(axes.flat)
    for panel, record, text in zip(panels, records, titles, strict=False):
        if shares:
            draw_shares(panel, *shares)
        _draw(figure, panel, record, sites_a, sites_b, scale, dark, ax is not None)
        panel.set_title(text)
    if ax is None:
        label_maps(figure, axes, left, below, names_a, names_b)
    else:
        label_each_map(axes, label, notes, names_a, names_b)
    for panel in panels[len(measures) :]:
        panel.remove()
    for panel in panels[max(0, len(measures) - columns) : len(measures)]:
        panel.tick_params(axis="x", labelbottom=True)
    return figure


def _grid_of_maps(count: int, sites: tuple[int, int], figsize: Size | None) -> tuple[float, int, int]:
    """Return the inches of a cell, and the rows and columns of maps."""
    across = WIDTH - 0.4 if figsize is None else figsize[0] - 0.6
    if sites[1] >= 2 * sites[0]:  # wide maps would be strips side by side
        return min(0.6, max(0.05, (across - BAR) / sites[1])), count, 1
    available = across / min(3, count) - BAR if count <= 3 else 1.35
    cell = min(0.6, max(0.05, min(2.2, available) / max(sites)))
    rows = math.ceil(count / max(1, int(across / (cell * sites[1] + BAR) + 0.01)))
    return cell, rows, math.ceil(count / rows)


def _draw(
    figure: Figure,
    panel: Axes,
    table: AnyTable,
    sites_a: list[str],
    sites_b: list[str],
    scale: Scale,
    dark: Dark,
    is_callers: bool,
) -> None:
    """Draw the map of one measure, or write why it has none."""
    values, null = (grid(table, column, sites_a, sites_b) for column in ("value", "null"))
    slope, offset = scale_of(table)
    if math.isnan(slope):
        width = panel.get_position().width * figure.get_figwidth()
        note = fill(next(filter(None, distinct(table, "note")), "no values"), max(12, int(22 * width)))
        panel.text(0.5, 0.5, note, transform=panel.transAxes, ha="center", va="center", fontsize=5.5, color="0.35")
        panel.imshow(values, origin="lower")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        return
    same = 0.0 - offset / slope + 0.0
    marks = {"null": float(np.nanmean(null)) if np.isfinite(null).any() else math.nan}
    if "null_best" in table.column_names and values.size > 1:
        marks["best"] = float(table["null_best"][0].as_py())
    colors = palette([values], same, slope < 0, marks, scale, dark)
    draw_map(panel, values, colors, holds_null(table, sites_a, sites_b))
    draw_bar(figure, panel, colors, f"{same:.3g} = same", is_callers)


def _shares(table: pa.Table, sites_a: list[str], sites_b: list[str]) -> tuple[Floats, Floats] | None:
    """Return each site's share of variance in its first principal component; None if no strips are drawn."""
    if "first_pc_a" not in table.column_names:
        return None
    shares = []
    for side, sites in (("a", sites_a), ("b", sites_b)):
        pairs = zip(table[f"site_{side}"].to_pylist(), table[f"first_pc_{side}"].to_pylist(), strict=True)
        by_site = {site: share for site, share in pairs if math.isfinite(share)}
        shares.append(np.array([by_site.get(site, math.nan) for site in sites]))
    return (shares[0], shares[1]) if has_strips(*shares) else None


def _outputs(table: pa.Table) -> str:
    """Return the values of output measures as one line."""
    return ", ".join(
        f"{title(record['measure'])} {record['value']:.3f} (null {record['null']:.3f})" for record in table.to_pylist()
    )
