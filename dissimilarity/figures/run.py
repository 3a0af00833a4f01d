"""The figures of a run, drawn from its tables alone.

`curves*` shows every reference (columns) by every measure (rows), with one line per pair of sites at equal relative
depth. `heatmap_*` shows all pairs of sites at several steps, one figure per reference. `groups` shows toward which
reference group a model drifts. `intrinsic` shows the measures of one model alone. Figures are drawn to files without
pyplot, so its backend and open figures are not touched.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dissimilarity.capture.sites import split_layer
from dissimilarity.figures.drift import groups_figure
from dissimilarity.figures.heatmaps import heatmap_figure
from dissimilarity.figures.intrinsic import intrinsic_figure
from dissimilarity.figures.style import (
    MEANING,
    STYLE,
    colors_of,
    file_name,
    short_names,
    spread,
    step_label,
    style_step_axis,
    without_layer,
    write_coverage,
    write_figure,
)
from dissimilarity.inference.changes import moves
from dissimilarity.inference.coverage import FIRST_TICK, PROBE_TEXT
from dissimilarity.inference.drift import FILE as GROUPS
from dissimilarity.inference.drift import read_groups
from dissimilarity.inference.jackknife import half_width
from dissimilarity.tables.curves import INTRINSIC, distinct, heatmap_steps, matched, read_curves, scale, select
from dissimilarity.tables.journal import Journal

REFERENCES_PER_FIGURE = 4
MARKED_POINTS = 24
MOVED: Any = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "", "zorder": 3}
"""The mark of the first step at which a curve differs from its first tick."""


def draw_run(run_folder: str | Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Draw all figures of a run into its folder `figures` and return their paths; none if it has no curves.

    Each file is replaced in one step, so a viewer never sees a half-written figure.

    Args:
        run_folder: folder of the run.
        formats: `png`, `pdf` or both.

    Example:
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
    paths, alone = [], Journal(folder / INTRINSIC).read()
    shares = [{**record, "share": record["value"]} for record in alone if record["measure"] == "first_component_share"]
    for name, figure in run_figures(table, folder.resolve().name, shares).items():
        paths += write_figure(figure, folder / "figures", name, formats)
    if alone:
        paths += write_figure(intrinsic_figure(alone), folder / "figures", "intrinsic", formats)
    if (folder / GROUPS).exists():
        paths += write_figure(groups_figure(read_groups(folder)), folder / "figures", "groups", formats)
    return paths


def run_figures(table: pa.Table, model: str, shares: Sequence[Mapping[str, Any]] = ()) -> dict[str, Figure]:
    """Return every figure of a curves table by file name: curves by kind of site, heat maps by reference.

    Args:
        table: records of the curves schema.
        model: name of the model in training, for the axes.
        shares: as for `heatmap_figure`.
    """
    figures: dict[str, Figure] = {}
    references = distinct(table, "reference")
    by_kind = _sites_by_kind(distinct(table, "site_a"))
    for kind, sites in by_kind.items():
        records = table.filter(pa.array([site in sites for site in table["site_a"].to_pylist()], pa.bool_()))
        for first in range(0, len(references), REFERENCES_PER_FIGURE):
            parts = ["curves", *([kind] if len(by_kind) > 1 else []), *([str(first)] if first else [])]
            page = references[first : first + REFERENCES_PER_FIGURE]
            figures[file_name(parts, figures)] = curves_figure(records, page)
    for reference in references:
        records = select(table, reference=reference)
        if heatmap_steps(select(records, measure=records["measure"][0].as_py())):
            figures[file_name(["heatmap", reference], figures)] = heatmap_figure(records, model, shares)
    return figures


def curves_figure(table: pa.Table, references: Sequence[str] | None = None) -> Figure:
    """Draw the curves of a table: dissimilarity by training step, with 95 % intervals and null.

    Args:
        table: records of the curves schema, of any references and measures.
        references: the references to draw, in this order; by default all.

    Returns:
        A figure of measures (rows) by references (columns). Lines connect the steps that have values. Steps without a
        value at any site are ticked at the bottom of the panel. The null is the range over the sites, with its median
        dashed. If it is far above the curves, the panel states where it is. A ring marks the first step at which a
        curve differs from its first tick (`changes`).

    Example:
        >>> at = {"tokens": 0, "reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed", "note": ""}
        >>> values = {"value": 0.9, "dissimilarity": 0.1, "stderr": 0.01, "n_units": 16, "null": 0.2}
        >>> table = pa.Table.from_pylist([{"step": step, **at, **values} for step in (0, 1, 2)])
        >>> curves_figure(table).axes[0].get_title()
        'vs init'
    """
    references = distinct(table, "reference") if references is None else list(references)
    measures, sites = distinct(table, "measure"), distinct(table, "site_a")
    colors = colors_of(sites)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.3 + 2.3 * len(references), 0.5 + 1.75 * len(measures)), layout="constrained")
        axes = figure.subplots(len(measures), len(references), squeeze=False, sharex=True)
        any_moved = False
        for row, measure in enumerate(measures):
            for column, reference in enumerate(references):
                panel = axes[row, column]
                any_moved |= _draw_curves(panel, select(table, reference=reference, measure=measure), colors)
                if row == 0:
                    panel.set_title(fill(f"vs {reference}", 36))
                if column == 0:
                    panel.set_ylabel(f"{measure}\n{MEANING}")
        for panel in axes[-1]:
            panel.set_xlabel(step_label(table))
        style_step_axis(axes[0, 0], max(distinct(table, "step"), default=0))
        _add_legend(figure, colors, any_moved, missing=bool(_steps_without_value(table)))
        write_coverage(figure, PROBE_TEXT, *([FIRST_TICK] if any_moved else []))
    return figure


def _draw_curves(panel: Axes, table: pa.Table, colors: dict[str, Any]) -> bool:
    """Draw one panel: the matched pairs of one reference and one measure. Return whether a curve moves."""
    slope, offset = scale(table)
    lines = matched(table) if table.num_rows else table
    moved = {curve[2]: step for curve, step in (moves(lines) if "influence" in lines.column_names else {}).items()}
    lowest = highest = 0.0
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
            panel.fill_between(step, shown - band, shown + band, color=color, alpha=0.2, linewidth=0)
            at_move = step == moved.get(site)
            panel.plot(step[at_move], shown[at_move], color=color, **MOVED)
            lowest, highest = min(lowest, *shown), max(highest, *shown)
    if not panel.lines:
        reasons = [note for note in distinct(table, "note") if note]
        text = "\n".join(["no values", *reasons[:1]])
        panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", wrap=True, color="0.35")
    missing = _steps_without_value(lines)
    panel.plot(missing, [0.03] * len(missing), "|", color="0.6", markersize=4, transform=panel.get_xaxis_transform())
    _draw_null(panel, nulls, lowest, highest)
    return any(step is not None for step in moved.values())


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
            panel.set_title(f"null at {middle[-1]:.2g}", loc="right", fontsize=6.5, color="0.35", y=0.88)
    panel.set_ylim(1.08 * lowest, 1.08 * highest if highest > 0 else 1)
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _add_legend(figure: Figure, colors: dict[str, Any], any_moved: bool, missing: bool) -> None:
    """Add a legend beside the panels: sites by color, evenly thinned if there are many, then everything else."""
    sites = list(colors)
    title, names = short_names(sites)
    entries: list[Any] = [
        Line2D([], [], color=colors[site], label=names[sites.index(site)])
        for site in spread(sites, max(3, int((figure.get_figheight() - 1.1) / 0.16)))
    ]
    interval = Patch(color=colors[sites[0]], alpha=0.2, linewidth=0)
    nulls = Patch(color="0.5", alpha=0.25, linewidth=0), Line2D([], [], color="0.35", linestyle="--", linewidth=0.9)
    labels = [*(entry.get_label() for entry in entries), "95 % interval", "null (all sites)"]
    handles: Any = [*entries, interval, nulls]
    if any_moved:
        handles.append(Line2D([], [], color="0.35", **MOVED))
        labels.append("differs from first tick")
    if missing:
        handles.append(Line2D([], [], linestyle="", marker="|", color="0.6", markersize=4))
        labels.append("not measured")
    figure.legend(handles, labels, title=title, loc="outside right upper", frameon=False, alignment="left")


def _sites_by_kind(sites: list[str]) -> dict[str, list[str]]:
    """Return the sites that share a figure, by kind. Sites without a layer join the others if there is one kind."""
    by_kind: dict[str, list[str]] = {}
    for site in sites:
        kind, layer = split_layer(site)
        by_kind.setdefault("other" if layer is None else without_layer(kind), []).append(site)
    return {"all": sites} if len(by_kind.keys() - {"other"}) <= 1 else by_kind
