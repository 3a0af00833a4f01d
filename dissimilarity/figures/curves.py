"""The figure of curves: dissimilarity by training step, one panel per measure and reference, one line per site."""

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import ENTRY, LINE, Ax, Frame, Legend, Size, make_panels
from dissimilarity.figures.style import MARKED_POINTS, colors_of, short_names, spread, step_label, style_step_axis
from dissimilarity.inference.changes import moves
from dissimilarity.inference.coverage import FIRST_TICK, PROBE_TEXT
from dissimilarity.inference.jackknife import half_width
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.tables.curves import distinct, matched, scale, select

PANEL = (1.85, 1.45)
MOVED: Any = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "", "zorder": 3}
"""The mark of the first step at which a curve differs from its first tick."""


@in_style()
def curves_figure(
    table: pa.Table,
    references: Sequence[str] | None = None,
    model: str = "",
    *,
    figsize: Size | None = None,
    ax: Ax | None = None,
) -> Figure:
    """Draw the curves of a table: dissimilarity by training step, with 95% intervals and null.

    Args:
        table: records of the curves schema, of any references and measures.
        references: the references to draw, in this order; by default all.
        model: name of the model in training, for the title.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, one per measure and reference; `ax.legend()` names the sites.

    Raises:
        ValueError: a table without records.

    Returns:
        A figure of measures (rows) by references (columns). Lines connect the steps that have values. Steps without a
        value at any site are ticked at the bottom of the panel. The null is the range over the sites, with its median
        dashed. If it is far above the curves, the panel states where it is. A ring marks the first step at which a
        curve differs from its first tick (`changes`).

    Examples:
        >>> at = {"tokens": 0, "reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed", "note": ""}
        >>> values = {"value": 0.9, "dissimilarity": 0.1, "stderr": 0.01, "n_units": 16, "null": 0.2}
        >>> table = pa.Table.from_pylist([{"step": step, **at, **values} for step in (0, 1, 2)])
        >>> curves_figure(table, figsize=(3.25, 2)).axes[0].get_title()
        'vs init'
    """
    if not table.num_rows:
        raise ValueError("expected records of curves, found none; pass what read_curves() returns")
    references = distinct(table, "reference") if references is None else list(references)
    measures, colors = distinct(table, "measure"), colors_of(distinct(table, "site_a"))
    lines = {
        (measure, reference): matched(select(table, reference=reference, measure=measure))
        for measure in measures
        for reference in references
    }
    moved = {place: _moves(line) for place, line in lines.items()}
    any_moved = any(step is not None for steps in moved.values() for step in steps.values())
    legend = _legend(colors, len(measures), any_moved, any(map(_steps_without_value, lines.values())))
    titles = [fill(f"vs {reference}", 30) for reference in references]
    frame = Frame(
        left=0.82,
        top=0.1 + LINE * max(title.count("\n") + 1 for title in titles),
        title=model,
        notes=[PROBE_TEXT, *([FIRST_TICK] if any_moved else [])],
        legends=[legend],
    )
    figure, axes = make_panels(len(measures), len(references), PANEL, frame, figsize, ax, sharex=True)
    for row, measure in enumerate(measures):
        for column, reference in enumerate(references):
            place = measure, reference
            _draw_curves(axes[row, column], lines[place], moved[place], colors)
        axes[row, 0].set_ylabel(f"{fill(dissimilarity_title(measure), 26)}\n(0 = same)")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    for panel in axes[-1]:
        panel.set_xlabel(step_label(table))
    for panel in axes.flat if ax is not None else axes.flat[:1]:
        style_step_axis(panel, max(distinct(table, "step"), default=0))
    return figure


def _moves(lines: pa.Table) -> dict[str, int | None]:
    """Return the first step at which the curve of each site differs from its first tick."""
    has_errors = "influence" in lines.column_names
    return {curve[2]: step for curve, step in (moves(lines) if has_errors else {}).items()}


def _draw_curves(panel: Axes, lines: pa.Table, moved: dict[str, int | None], colors: dict[str, Any]) -> None:
    """Draw one panel: the matched pairs of one reference and one measure."""
    slope, offset = scale(lines)
    lowest = highest = 0.0
    faint = min(0.2, 1 / len(colors))  # many bands over each other would hide the curves
    nulls: dict[int, list[float]] = {}
    for site, color in colors.items():
        line = select(lines, site_a=site)
        step, shown, null = (line[name].to_numpy() for name in ("step", "dissimilarity", "null"))
        half = np.nan_to_num(half_width(line["stderr"].to_numpy(), line["n_units"].to_numpy()))
        for null_step, value in zip(step, offset + slope * null, strict=True):
            if math.isfinite(value):
                nulls.setdefault(int(null_step), []).append(float(value))
        finite = np.isfinite(shown)
        if finite.any():
            step, shown, band = step[finite], shown[finite], half[finite]
            marker = "o" if len(step) <= MARKED_POINTS else ""
            panel.plot(step, shown, color=color, marker=marker, markersize=2, label=site)
            panel.fill_between(step, shown - band, shown + band, color=color, alpha=faint, linewidth=0)
            at_move = step == moved.get(site)
            if at_move.any():
                panel.plot(step[at_move], shown[at_move], color=color, **MOVED)
            lowest, highest = min(lowest, *shown), max(highest, *shown)
    if not panel.lines:
        reasons = [note for note in distinct(lines, "note") if note]
        text = "\n".join(["no values", *(fill(reason, 28) for reason in reasons[:1])])
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color="0.35")
    if missing := _steps_without_value(lines):
        bottom = panel.get_xaxis_transform()
        panel.plot(missing, [0.03] * len(missing), "|", color="0.6", markersize=4, transform=bottom)
    _draw_null(panel, nulls, lowest, highest)


def _steps_without_value(lines: pa.Table) -> list[int]:
    """Return the steps at which no site has a value, because the tick failed."""
    measured = lines.filter(pa.array(np.isfinite(lines["dissimilarity"].to_numpy())))
    return sorted(set(distinct(lines, "step")) - set(distinct(measured, "step")))


def _draw_null(panel: Axes, nulls: dict[int, list[float]], lowest: float, highest: float) -> None:
    """Draw the null: its range over the sites in gray, its median dashed. Set the limits, or note where it is."""
    steps = sorted(nulls)
    if steps:
        low, middle, high = (np.array([f(nulls[step]) for step in steps]) for f in (min, np.median, max))
        panel.fill_between(steps, low, high, color="0.5", alpha=0.25, linewidth=0, zorder=0)
        panel.plot(steps, middle, color="0.35", linestyle="--", linewidth=0.9, zorder=0.5, label="null")
        if middle.min() <= 3 * highest or not highest:
            lowest, highest = min(lowest, *low), max(highest, *high)
        else:
            background: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
            text: Any = {"loc": "right", "fontsize": 6.5, "color": "0.35", "y": 0.88, "bbox": background}
            panel.set_title(f"null at {middle[-1]:.2g}", **text)
    panel.set_ylim(1.08 * lowest, 1.08 * highest if highest > 0 else 1)
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _legend(colors: dict[str, Any], rows: int, any_moved: bool, any_missing: bool) -> Legend:
    """Return sites by color, evenly thinned if there are many, then everything else."""
    sites = list(colors)
    title, names = short_names(sites)
    fitting = int((PANEL[1] * rows - 0.2) / ENTRY) - 5
    shown = spread(list(zip(names, colors.values(), strict=True)), max(3, fitting))
    nulls = Patch(color="0.5", alpha=0.25, linewidth=0), Line2D([], [], color="0.35", linestyle="--", linewidth=0.9)
    entries: list[tuple[str, Any]] = [(name, Line2D([], [], color=color)) for name, color in shown]
    entries += [
        ("95% interval", Patch(color=shown[0][1] if shown else "0.5", alpha=0.2, linewidth=0)),
        ("null (all sites)", nulls),
    ]
    if any_moved:
        entries.append(("moves", Line2D([], [], color="0.35", **MOVED)))
    if any_missing:
        entries.append(("not measured", Line2D([], [], linestyle="", marker="|", color="0.6", markersize=4)))
    return Legend(title, entries)
