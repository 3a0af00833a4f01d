"""Heat maps of all pairs of sites of two models, at several steps, drawn from the curves table."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from dissimilarity.figures.style import MEANING, STYLE, short_names, spread
from dissimilarity.tables.curves import distinct, grid, heatmap_steps, scale, select

LABEL = 1.35
"""Inches that the label of a map's color bar takes."""
STRIP, SLIM, GAP = 0.19, 0.08, 0.03
"""Width in inches of a strip with values in it, of a strip without, and of the gap between strip and map."""
STRIPS = "strips: share of variance in the first principal component (PC1)"


def heatmap_figure(table: pa.Table, model: str, shares: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Draw all pairs of sites of one reference, at some of the steps that have them, including the first and the last.

    Args:
        table: records of the curves schema, of one reference, with at least one step that has all pairs.
        model: name of the model in training, for the vertical axis.
        shares: records with `step, reference, of, site, share`, with `of` the model or the reference: the share of
            variance in the first principal component, drawn as strips beside the maps.

    Returns:
        A figure of measures (rows) by steps (columns). The maps of a measure share one color scale, which begins at 0
        and includes the mean null of the last map, marked on it. Both models begin at the lower left corner.

    Example:
        >>> sites = ["blocks.0.resid_post", "blocks.1.resid_post"]
        >>> run = {"step": 0, "reference": "init", "measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2}
        >>> table = pa.Table.from_pylist([{**run, "site_a": a, "site_b": b} for a in sites for b in sites])
        >>> heatmap_figure(table, "solu").axes[0].get_title()
        'step 0'
    """
    every_step = heatmap_steps(select(table, measure=table["measure"][0].as_py()))
    last, measures = select(table, step=every_step[-1]), distinct(table, "measure")
    sites_a, sites_b = distinct(last, "site_a"), distinct(last, "site_b")
    cell = min(0.6, max(0.08, 2.3 / max(len(sites_a), len(sites_b))))
    reference, strip = table["reference"][0].as_py(), margin(cell) if shares else 0.0
    width, height = strip + cell * len(sites_b), strip + cell * len(sites_a)
    steps = spread(every_step, min(5, max(2, int(7.5 / (width + 0.15)))))
    (kind_a, names_a), (kind_b, names_b) = short_names(sites_a), short_names(sites_b)
    left, below = (0.06 * max(map(len, names)) for names in (names_a, names_b))
    # A single map has its bar further away; a map of few sites is no taller than the label of its bar.
    across = (1.6 if len(steps) > 1 else 2.1) + left + (width + 0.15) * len(steps)
    size = (across, 0.7 + below + (max(height, LABEL) + 0.15) * len(measures))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(measures), len(steps), squeeze=False, sharex=True, sharey=True)
        for row, measure in enumerate(measures):
            records = select(table, measure=measure)
            maps = [grid(select(records, step=step), "dissimilarity", sites_a, sites_b) for step in steps]
            slope, offset = scale(records)
            null = offset + slope * grid(select(records, step=steps[-1]), "null", sites_a, sites_b)
            draw_maps(figure, list(axes[row]), maps, null, f"{measure}\n{MEANING}", cell)
            for panel, step in zip(axes[row], steps, strict=True) if shares else ():
                draw_shares(panel, *_shares_at(shares, step, reference, sites_a, sites_b), cell)
        for panel, step in zip(axes[0], steps, strict=True):
            panel.set_title(f"step {step:,}")
        name_sites(axes[0, 0], list(axes[-1]), names_a, names_b, cell)
        figure.supylabel(fill(f"{model}: {kind_a}", max(20, int(14 * size[1]))), fontsize=8)
        figure.supxlabel(f"{reference}: {kind_b}" + (f"\n{STRIPS}" if shares else ""), fontsize=8)
    return figure


def _shares_at(
    shares: Sequence[Mapping[str, Any]], step: int, reference: str, sites_a: list[str], sites_b: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of the model's and the reference's sites at one step, NaN where there is none."""
    by_site = {
        (record["of"], record["site"]): record["share"]
        for record in shares
        if record["step"] == step and record["reference"] == reference
    }
    model, other = (
        np.array([by_site.get((owner, site), math.nan) for site in sites])
        for owner, sites in (("model", sites_a), ("reference", sites_b))
    )
    return model, other


def draw_maps(
    figure: Figure,
    panels: list[Axes],
    maps: list[np.ndarray],
    null: np.ndarray,
    label: str,
    cell: float,
    same: float = 0.0,
    falls: bool = False,
) -> None:
    """Draw maps (site_a, site_b) of one measure on one color scale, dark = same, with values in cells that fit them.

    Args:
        figure: where to draw.
        panels: one panel per map.
        maps: the values.
        null: values of the null, whose mean is marked on the color bar.
        label: label of the color bar.
        cell: inches per cell.
        same: the value of identical representations, one end of the scale.
        falls: whether values fall from there, as those of a similarity do.
    """
    level = float(np.nanmean(null)) if np.isfinite(null).any() else math.nan
    shown = np.concatenate([np.ravel(values) for values in maps] + [[same, same + (-1e-3 if falls else 1e-3), level]])
    bottom, top = float(np.nanmin(shown)), float(np.nanmax(shown))
    image = None
    for panel, values in zip(panels, maps, strict=True):
        image = panel.imshow(values, origin="lower", cmap="viridis_r" if falls else "viridis", vmin=bottom, vmax=top)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        if cell > 0.19:
            dark, light = (top, bottom) if falls else (bottom, top)
            _write_values(panel, values, dark, light, min(6.5, 24 * cell))
    assert image is not None
    if len(panels) > 1:
        bar = figure.colorbar(image, ax=panels, aspect=14, pad=0.02)
    else:  # as tall as the map, with space for the mark of the null between them
        width = cell * maps[0].shape[1]
        bar = figure.colorbar(image, cax=panels[0].inset_axes((1 + 0.3 / width, 0, 0.07 / width, 1)))
    bar.set_label(label)
    bar.ax.spines[:].set_visible(False)
    if math.isfinite(level):
        arrow = {
            "arrowstyle": "-|>",
            "mutation_scale": 5,
            "linewidth": 0.5,
            "color": "0.35",
            "shrinkA": 0,
            "shrinkB": 0,
        }
        place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "arrowprops": arrow}
        bar.ax.annotate("null", (0, level), (-9, 0), ha="right", va="center", fontsize=6, color="0.35", **place)


def margin(cell: float) -> float:
    """Return the width in inches of a strip beside a map, including its gap."""
    return GAP + (STRIP if cell > 0.19 else SLIM)


def draw_shares(panel: Axes, shares_a: np.ndarray, shares_b: np.ndarray, cell: float) -> None:
    """Draw strips beside and below a map: each site's share of variance in its first principal component, 1 = black.

    Args:
        panel: the map. Its site names move to make space for the strips.
        shares_a: shares of the sites on the vertical axis.
        shares_b: shares of the sites on the horizontal axis.
        cell: inches per cell.
    """
    strip, outside = margin(cell) - GAP, margin(cell)
    figure = panel.get_figure()
    assert figure is not None
    # Across: in inches from the corner of the map, whatever its size. Along: the whole length of the map.
    along: Any = panel.transAxes
    inches = figure.dpi_scale_trans + ScaledTranslation(0, 0, along)
    places = (
        ((-outside, 0, strip, 1), blended_transform_factory(inches, along), shares_a[:, None]),
        ((0, -outside, 1, strip), blended_transform_factory(along, inches), shares_b[None]),
    )
    for bounds, transform, shares in places:
        beside = panel.inset_axes(bounds, transform=transform)
        beside.imshow(shares, origin="lower", cmap="Grays", vmin=0, vmax=1, aspect="auto")
        beside.set_axis_off()
        if cell > 0.19:
            _write_values(beside, shares, 1.0, 0.0, min(5.5, 24 * cell))
        if cell > 0.19 and transform is places[0][1]:
            corner: Any = {"ha": "center", "va": "center", "fontsize": 4.5, "color": "0.35"}
            beside.text(strip / 2 - outside, strip / 2 - outside, "PC1", transform=inches, **corner)
    panel.tick_params(pad=72 * outside + 1.5)


def name_sites(first: Axes, lowest: list[Axes], names_a: list[str], names_b: list[str], cell: float) -> None:
    """Label the ticks with site names, as many as fit, evenly spaced, and rotate long names below the maps.

    Args:
        first: the panel whose axes all panels share.
        lowest: the panels with names below them.
        names_a: names of the sites on the vertical axis.
        names_b: names of the sites on the horizontal axis.
        cell: inches per cell.
    """
    upright = max(map(len, names_b)) > 2
    for axis, names, spacing in (
        (first.xaxis, names_b, 0.11 if upright else 0.15),
        (first.yaxis, names_a, 0.11),
    ):
        shown = range(0, len(names), math.ceil(spacing / cell))
        axis.set_ticks(shown, [names[index] for index in shown])
    if upright:
        for panel in lowest:
            panel.tick_params(axis="x", rotation=90)


def _write_values(panel: Axes, values: np.ndarray, dark: float, light: float, size: float) -> None:
    """Write the value into each cell, dark on light colors and light on dark ones."""
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            color = "black" if (value - dark) / (light - dark) > 0.55 else "white"
            text = f"{round(value, 2) + 0.0:.2f}"
            text = text.replace("0.", ".", 1) if abs(value) < 0.995 else text
            panel.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
