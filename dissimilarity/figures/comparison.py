"""The figure of a comparison: one heat map a measure, all pairs of sites of two models, from the table of `compare`."""

import math
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dissimilarity.capture.sites import LOGITS
from dissimilarity.figures.heatmaps import GAP, STRIP, STRIPS, draw_maps, draw_shares, margin, name_sites
from dissimilarity.figures.style import STYLE, scale, short_names
from dissimilarity.tables.curves import distinct, grid, select

WIDTH = 7.8
"""Inches across, about what a page of a paper has."""
BESIDE = 0.95
"""Inches beside a map, for its color bar."""


def comparison_figure(table: pa.Table, name_a: str, name_b: str) -> Figure:
    """Draw the table of one comparison: measures side by side, the sites of `name_a` upwards, of `name_b` rightwards.

    Each measure has its values, as the literature has them, on a scale of its own; dark = same on all. The color bar
    says which end that is, and where the mean null is. Strips beside the names of sites show, where the table says it,
    the share of each site's variance in its first principal component. Measures of outputs, which have one value, stand
    underneath.

    Raises:
        ValueError: a table without rows.
    """
    if not table.num_rows:
        raise ValueError("expected the table of a comparison, found one without rows; draw what compare() returns")
    of_sites = table.filter(pa.array([site != LOGITS for site in table["site_a"].to_pylist()], pa.bool_()))
    shown = of_sites if of_sites.num_rows else table
    measures, sites_a, sites_b = (distinct(shown, column) for column in ("measure", "site_a", "site_b"))
    shares = _shares(shown, sites_a, sites_b)
    beside = BESIDE + (GAP + STRIP if shares else 0)
    room = (WIDTH - 0.4) / min(3, len(measures)) - beside if len(measures) <= 3 else 1.35
    cell = min(0.6, max(0.05, min(2.2, room) / max(len(sites_a), len(sites_b))))
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
        figure.supylabel(fill(f"{name_a}: {kind_a}", max(20, int(14 * size[1]))), fontsize=8)
        below_map = [outputs, STRIPS if shares else ""]
        lines = [fill(line, max(20, int(14 * size[0]))) for line in (f"{name_b}: {kind_b}", *filter(None, below_map))]
        figure.supxlabel("\n".join(lines), fontsize=8)
    return figure


def _draw(figure: Figure, panel: Axes, table: pa.Table, sites_a: list[str], sites_b: list[str], cell: float) -> None:
    """The map of one measure, or why it has none."""
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
    """The share of variance in the first principal component of each site, where the table has any."""
    if "first_pc_a" not in table.column_names:
        return None
    found = []
    for side, sites in (("a", sites_a), ("b", sites_b)):
        pairs = zip(table[f"site_{side}"].to_pylist(), table[f"first_pc_{side}"].to_pylist(), strict=True)
        known = {site: share for site, share in pairs if math.isfinite(share)}
        found.append(np.array([known.get(site, math.nan) for site in sites]))
    return (found[0], found[1]) if np.isfinite(np.concatenate(found)).any() else None


def _outputs(table: pa.Table) -> str:
    """The values of measures of outputs, in one line."""
    return ", ".join(f"{row['measure']} {row['value']:.3f} (null {row['null']:.3f})" for row in table.to_pylist())
