"""The figure of a comparison: one heat map per measure of all pairs of sites, from the table of `compare`."""

import math
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dissimilarity.capture.sites import LOGITS
from dissimilarity.figures.heatmaps import GAP, STRIP, STRIPS, draw_maps, draw_shares, margin, name_sites
from dissimilarity.figures.style import STYLE, short_names
from dissimilarity.tables.curves import distinct, grid, scale, select

WIDTH = 7.8
"""Width in inches, about that of a page of a paper."""
BESIDE = 0.95
"""Inches beside a map for its color bar."""


def comparison_figure(table: pa.Table, name_a: str, name_b: str) -> Figure:
    """Draw the table of one comparison: measures side by side, sites of `name_a` as rows and of `name_b` as columns.

    Each measure shows its values as in the literature, on its own color scale, with dark = same. The color bar marks
    the value of identical representations and the mean null. If the table has them, strips beside the site names show
    each site's share of variance in its first principal component. Output measures have one value, written below.

    Args:
        table: the table that `compare` returns.
        name_a: name of the first model.
        name_b: name of the second model.

    Raises:
        ValueError: a table without records.

    Example:
        >>> sites = ["blocks.0.resid_post", "blocks.1.resid_post"]
        >>> cka = {"measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2, "note": ""}
        >>> table = pa.Table.from_pylist([{**cka, "site_a": a, "site_b": b} for a in sites for b in sites])
        >>> comparison_figure(table, "solu", "gelu").axes[0].get_title()
        'cka'
    """
    if not table.num_rows:
        raise ValueError("expected the table of a comparison, found one without records; pass what compare() returns")
    of_sites = table.filter(pa.array([site != LOGITS for site in table["site_a"].to_pylist()], pa.bool_()))
    shown = of_sites if of_sites.num_rows else table
    measures, sites_a, sites_b = (distinct(shown, column) for column in ("measure", "site_a", "site_b"))
    shares = _shares(shown, sites_a, sites_b)
    beside = BESIDE + (GAP + STRIP if shares else 0)
    available = (WIDTH - 0.4) / min(3, len(measures)) - beside if len(measures) <= 3 else 1.35
    cell = min(0.6, max(0.05, min(2.2, available) / max(len(sites_a), len(sites_b))))
    strip = margin(cell) if shares else 0.0
    width, height = strip + cell * len(sites_b), strip + cell * len(sites_a)
    rows = math.ceil(len(measures) / max(1, int((WIDTH - 0.4) / (width + BESIDE) + 0.01)))
    columns = math.ceil(len(measures) / rows)
    (kind_a, names_a), (kind_b, names_b) = short_names(sites_a), short_names(sites_b)
    left, below = (0.06 * max(map(len, names)) for names in (names_a, names_b))
    outputs = _outputs(table.filter(pa.array([measure not in measures for measure in table["measure"].to_pylist()])))
    across, up = 0.3 + left + (width + BESIDE) * columns, 0.4 + below + (height + 0.3) * rows
    size = (max(2.6, across), max(1.8, up + (0.25 if outputs else 0) + (0.15 if shares else 0)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = list(axes.flat)
        for panel, measure in zip(panels, measures, strict=False):
            _draw(figure, panel, select(shown, measure=measure), sites_a, sites_b, cell)
            if shares:
                draw_shares(panel, *shares, cell)
            fits = 72 * (width + 0.35) / (0.6 * len(measure))
            panel.set_title(measure, fontsize=max(5, min(8, fits)))
        for panel in panels[len(measures) :]:
            panel.remove()
        lowest = panels[max(0, len(measures) - columns) : len(measures)]
        name_sites(panels[0], lowest, names_a, names_b, cell)
        for panel in lowest:
            panel.tick_params(axis="x", labelbottom=True)
        lines = [f"{name_b}: {kind_b}", *filter(None, [outputs, STRIPS if shares else ""])]
        _label_axes(figure, f"{name_a}: {kind_a}", lines)
    return figure


def _label_axes(figure: Figure, label: str, lines: list[str]) -> None:
    """Write a label beside the maps and lines below them, wrapped to the size of the figure."""
    width, height = figure.get_size_inches()
    figure.supylabel(fill(label, max(20, int(14 * height))), fontsize=8)
    figure.supxlabel("\n".join(fill(line, max(20, int(14 * width))) for line in lines), fontsize=8)


def _draw(figure: Figure, panel: Axes, table: pa.Table, sites_a: list[str], sites_b: list[str], cell: float) -> None:
    """Draw the map of one measure, or write why it has none."""
    values, null = (grid(table, column, sites_a, sites_b) for column in ("value", "null"))
    slope, offset = scale(table)
    if math.isnan(slope):
        note = fill(next(filter(None, distinct(table, "note")), "no values"), max(12, int(16 * cell * len(sites_b))))
        panel.text(0.5, 0.5, note, transform=panel.transAxes, ha="center", va="center", fontsize=5, color="0.35")
        panel.imshow(values, origin="lower")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        return
    same = 0.0 - offset / slope + 0.0
    draw_maps(figure, [panel], [values], null, f"{same:.3g} = same", cell, same, falls=slope < 0)


def _shares(table: pa.Table, sites_a: list[str], sites_b: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return each site's share of variance in its first principal component; None if the table has none."""
    if "first_pc_a" not in table.column_names:
        return None
    shares = []
    for side, sites in (("a", sites_a), ("b", sites_b)):
        pairs = zip(table[f"site_{side}"].to_pylist(), table[f"first_pc_{side}"].to_pylist(), strict=True)
        by_site = {site: share for site, share in pairs if math.isfinite(share)}
        shares.append(np.array([by_site.get(site, math.nan) for site in sites]))
    return (shares[0], shares[1]) if np.isfinite(np.concatenate(shares)).any() else None


def _outputs(table: pa.Table) -> str:
    """Return the values of output measures as one line."""
    return ", ".join(
        f"{record['measure']} {record['value']:.3f} (null {record['null']:.3f})" for record in table.to_pylist()
    )
