"""Heat maps of all pairs of sites of two models, at several steps, drawn from the curves table."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import LINE, Ax, Frame, Size, fill_inches, make_panels
from dissimilarity.figures.maps import (
    BAR,
    NO_NULL,
    STRIPS,
    Dark,
    Floats,
    Palette,
    Scale,
    draw_bar,
    draw_map,
    draw_shares,
    has_strips,
    inches_of,
    is_upright,
    margin,
    name_sites,
    palette,
    space_for_names,
)
from dissimilarity.figures.style import short_names, spread
from dissimilarity.inference.jackknife import half_width
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.tables.curves import distinct, grid, heatmap_steps, rows_with, select
from dissimilarity.tables.curves import scale as scale_of

LOWEST = 1.35
"""Inches that the label of a map's color bar takes."""
SHORTEST = 1.0
"""Inches of the shortest line into which labels at the caller's axes are broken."""
MEASURES = 5
"""Rows of one figure, which is 15 inches high at most."""


@in_style()
def heatmap_figure(
    table: pa.Table,
    model: str,
    shares: Sequence[Mapping[str, Any]] = (),
    *,
    scale: Scale = "null",
    dark: Dark = "same",
    figsize: Size | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw all pairs of sites of one reference, at some of the steps that have them, including the first and the last.

    A step at which the reference is the model itself is left out if there are others.

    Args:
        table: records of the curves schema, of one reference, with at least one step that has all pairs.
        model: name of the model in training, for the vertical axis.
        shares: records with `step, reference, of, site, share`, with `of` the model or the reference: the share of
            variance in the first principal component, drawn as strips beside the maps if one is above 0.5.
        scale: `null`: colors from identical to the null; `data`: from the smallest value to the largest.
        dark: whether dark cells are the `same` or `different`.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, one per measure and step; its `layout="compressed"` makes space for labels.

    Raises:
        ValueError: records of several references, or no step with all pairs of sites.

    Returns:
        A figure of measures (rows) by steps (columns). The maps of a measure share one color scale, which marks the
        mean null of the last map. Both models begin at the lower left corner. Cells are hatched where the 95% interval
        holds the null.

    Examples:
        >>> sites = ["blocks.0.resid_post", "blocks.1.resid_post"]
        >>> run = {"step": 8, "reference": "init", "measure": "cka", "value": 0.9, "dissimilarity": 0.1, "null": 0.2}
        >>> table = pa.Table.from_pylist([{**run, "site_a": a, "site_b": b} for a in sites for b in sites])
        >>> heatmap_figure(table, "solu").axes[0].get_title()
        'step 8'
    """
    every_step = _steps_to_draw(table)
    last, measures = select(table, step=every_step[-1]), distinct(table, "measure")
    sites_a, sites_b = distinct(last, "site_a"), distinct(last, "site_b")
    cell = min(0.6, max(0.08, 2.3 / max(len(sites_a), len(sites_b))))
    width, height = cell * len(sites_b), cell * len(sites_a)
    available = 7.5 if figsize is None else figsize[0] - 1.2
    steps = spread(every_step, min(5, max(1 if figsize else 2, int(available / (width + 0.15)))))
    reference = table["reference"][0].as_py()
    shares_at = {step: _shares_at(shares, step, reference, sites_a, sites_b) for step in steps}
    strip = margin(cell) if has_strips(*(values for pair in shares_at.values() for values in pair)) else 0.0
    rows = [_row(table, measure, steps, sites_a, sites_b, scale, dark) for measure in measures]
    (kind_a, names_a), (kind_b, names_b) = short_names(sites_a), short_names(sites_b)
    notes = [f"{reference}: {kind_b}"]
    notes += [STRIPS] * bool(strip) + [NO_NULL] * any(hatched.any() for row in rows for hatched in row[2])
    name_left, name_below = space_for_names(names_a, names_b)
    panel_size, across = (width, max(height, LOWEST)), 0.12 + strip
    label = f"{model}: {kind_a}"
    left = fill_beside(label, panel_size[1] * len(measures), figsize)
    margin_left = 0.1 + LINE * (left.count("\n") + 1) + name_left + strip
    below = fill_below(notes, width * len(steps) + across * (len(steps) - 1), margin_left, figsize)
    frame = Frame(
        left=margin_left,
        right=BAR,
        bottom=name_below + strip + LINE * (below.count("\n") + 1) + 0.08,
        top=0.28,
        across=across,
        between=0.16 + strip,
    )
    shared = {"sharex": True, "sharey": True}
    figure, axes = make_panels(len(measures), len(steps), panel_size, frame, figsize, ax, **shared)
    for panels, measure, (colors, maps, hatches) in zip(axes, measures, rows, strict=True):
        for panel, step, values, hatched in zip(panels, steps, maps, hatches, strict=True):
            draw_map(panel, values, colors, hatched)
            if strip:
                draw_shares(panel, *shares_at[step])
        title = f"{fill(dissimilarity_title(measure), 24)}\n(0 = same)"
        draw_bar(figure, panels[-1], colors, title, ax is not None)
    for panel, step in zip(axes[0], steps, strict=True):
        panel.set_title(f"step {step:,}")
    if ax is None:
        label_maps(figure, axes, left, below, names_a, names_b)
    else:
        label_each_map(axes, label, notes, names_a, names_b)
    return figure


def fill_beside(label: str, panels: float, figsize: Size | None) -> str:
    """Return a label broken into lines that fit beside panels, given their inches from bottom to top."""
    return fill_inches(label, max(1.3, panels if figsize is None else figsize[1] - 1.0))


def fill_below(notes: Sequence[str], panels: float, left: float, figsize: Size | None) -> str:
    """Return the label below panels, each of its notes broken into lines that stay within the figure.

    Args:
        notes: sentences; each begins a line.
        panels: inches from the left of the first panel to the right of the last, if there is no ``figsize``.
        left: inches to the left of the panels; those to their right are `BAR`.
        figsize: width and height of the figure.
    """
    if figsize is not None:
        panels = figsize[0] - left - BAR
    return "\n".join(fill_inches(note, panels + BAR + min(left, BAR) - 0.1) for note in notes)


def label_maps(figure: Figure, axes: Any, left: str, below: str, names_a: list[str], names_b: list[str]) -> None:
    """Name the sites of maps and both models, once per figure."""
    name_sites(axes.flat[0], names_a, names_b)
    for panel in axes[-1]:
        panel.tick_params(axis="x", rotation=90 if is_upright(names_b) else 0, labelbottom=True)
    width, height = figure.get_size_inches()
    places = [panel.get_position() for panel in axes.flat]
    x = (min(place.x0 for place in places) + max(place.x1 for place in places)) / 2
    y = (min(place.y0 for place in places) + max(place.y1 for place in places)) / 2
    figure.supylabel(left, x=0.06 / width, y=y, linespacing=1.1)
    figure.supxlabel(below, y=0.05 / height, x=max(x, 0.5), va="bottom", linespacing=1.1)


def label_each_map(axes: Any, label: str, notes: Sequence[str], names_a: list[str], names_b: list[str]) -> None:
    """Name the sites and both models at each of the caller's axes, in lines that are no longer than these."""
    for panel in axes.flat:
        name_sites(panel, names_a, names_b)
        panel.tick_params(labelsize=mpl.rcParams["xtick.labelsize"])
        panel.tick_params(axis="x", rotation=90 if is_upright(names_b) else 0, labelbottom=True)
        width, height = np.maximum(inches_of(panel), SHORTEST)
        size = mpl.rcParams["axes.labelsize"]
        panel.set_ylabel(fill_inches(label, height), fontsize=size, linespacing=1.1)
        panel.set_xlabel("\n".join(fill_inches(note, width) for note in notes), fontsize=size, linespacing=1.1)


def heatmap_pages(table: pa.Table) -> list[pa.Table]:
    """Return what is drawn of one reference, with some of its measures per figure; nothing if there is nothing.

    These are the measures with all pairs of sites at a step at which the reference is another model: at step 0, a model
    and its start are one.
    """
    measures = [name for name in distinct(table, "measure") if _steps(select(table, measure=name))]
    pages = (measures[first : first + MEASURES] for first in range(0, len(measures), MEASURES))
    return [rows_with(table, "measure", page) for page in pages]


def _steps_to_draw(table: pa.Table) -> list[int]:
    """Return the steps with all pairs of sites; where the reference is the model itself only if there are no others.

    Raises:
        ValueError: records of another number of references than one, or no step with all pairs.
    """
    references = distinct(table, "reference")
    if len(references) != 1:
        raise ValueError(
            f"expected records of one reference, found {', '.join(references) or 'none'}; take them with "
            'select(table, reference="init")'
        )
    first = select(table, measure=table["measure"][0].as_py())
    if steps := _steps(first) or heatmap_steps(first):
        return steps
    if len(distinct(first, "site_a")) == len(distinct(first, "site_b")) == 1 and first.num_rows:
        return sorted(distinct(first, "step"))
    raise ValueError(
        f"no step has all pairs of sites of {references[0]}; those of heat maps do (schedule.heatmap_every, or "
        "heatmap_every of a tracker), and curves_figure draws the others"
    )


def _steps(table: pa.Table) -> list[int]:
    """Return the steps of one reference and one measure with all pairs of sites, where it is another model."""
    itself = set[int]()
    if "reference_step" in table.column_names:
        itself = set(distinct(table.filter(pc.field("step") == pc.field("reference_step")), "step"))
    return [step for step in heatmap_steps(table) if step not in itself]


def _row(
    table: pa.Table,
    measure: str,
    steps: Sequence[int],
    sites_a: list[str],
    sites_b: list[str],
    scale: Scale,
    dark: Dark,
) -> tuple[Palette, list[Floats], list[Any]]:
    """Return the colors of one measure, its maps at some steps, and the cells to hatch in each."""
    records = select(table, measure=measure)
    at_steps = [select(records, step=step) for step in steps]
    maps = [grid(at_step, "dissimilarity", sites_a, sites_b) for at_step in at_steps]
    slope, offset = scale_of(records)
    nulls = offset + slope * grid(at_steps[-1], "null", sites_a, sites_b)
    level = float(np.nanmean(nulls)) if np.isfinite(nulls).any() else math.nan
    colors = palette(maps, 0.0, False, {"null": level}, scale, dark)
    return colors, maps, [holds_null(at_step, sites_a, sites_b) for at_step in at_steps]


def holds_null(table: pa.Table, sites_a: list[str], sites_b: list[str]) -> Any:
    """Return for each pair of sites whether the 95% interval of the value holds the null; nowhere without errors.

    Args:
        table: records of one measure at one step, or of one comparison.
        sites_a: sites of the first model.
        sites_b: sites of the second model.
    """
    if not {"stderr", "n_units"}.issubset(table.column_names):
        return np.zeros((len(sites_a), len(sites_b)), bool)
    value, null, stderr, n_units = (
        grid(table, column, sites_a, sites_b) for column in ("value", "null", "stderr", "n_units")
    )
    return np.abs(value - null) <= half_width(stderr, n_units)


def _shares_at(
    shares: Sequence[Mapping[str, Any]], step: int, reference: str, sites_a: list[str], sites_b: list[str]
) -> tuple[Floats, Floats]:
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
