"""The figure of reference groups: toward which of them a model drifts while it trains."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dissimilarity.capture.sites import split_layer
from dissimilarity.figures.style import (
    MEANING,
    STYLE,
    colors_of,
    short_names,
    step_label,
    style_step_axis,
    without_layer,
    write_coverage,
)
from dissimilarity.inference.coverage import REFERENCES
from dissimilarity.inference.drift import between, names
from dissimilarity.tables.curves import distinct, select

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of reference groups that color-blind readers can tell apart (Okabe & Ito 2008)."""
MARKED_POINTS = 24


def groups_figure(table: pa.Table) -> Figure:
    r"""Draw a table of reference groups: one column per measure, the groups' means at the last site, their difference.

    Args:
        table: records of `groups.parquet`.

    Returns:
        A figure with 95 % intervals over references, for groups of three or more. The difference is drawn at every
        site, at the last site with its interval. Below 0 the model is nearer to the first group.

    Example:
        >>> at = {"tokens": 0, "measure": "cka", "site": "embed", "low": 0.1, "high": 0.6, "references": 3}
        >>> records = [{"step": s, "group": "solu", "dissimilarity": 0.5 / s, **at} for s in (1, 2, 4)]
        >>> groups_figure(pa.Table.from_pylist(records)).axes[0].get_title()
        'cka\nat embed'
    """
    measures, sites = distinct(table, "measure"), distinct(table, "site")
    groups = names(table)
    rows = 2 if len(groups) == 2 else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 2.3 * len(measures), 0.6 + 1.75 * rows), layout="constrained")
        axes = figure.subplots(rows, len(measures), squeeze=False, sharex=True)
        for column, measure in enumerate(measures):
            records = select(table, measure=measure)
            site = distinct(records, "site")[-1]
            top = axes[0, column]
            top.set_title(f"{measure}\nat {_short(site)}")
            for name, color in zip(groups, _colors(groups), strict=True):
                _draw(top, select(records, group=name, site=site), color, interval=True)
            top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
            if rows > 1:
                _draw_difference(axes[1, column], select(records, group=between(*groups)), site, sites)
        axes[0, 0].set_ylabel(MEANING)
        if rows > 1:
            first, second = groups
            axes[1, 0].set_ylabel(f"to {first} minus to {second}\n(below 0 = nearer to {first})")
        for panel in axes[-1]:
            panel.set_xlabel(step_label(table))
        style_step_axis(axes[0, 0], max(distinct(table, "step"), default=0))
        _add_legend(figure, table, groups, sites if rows > 1 else [])
        write_coverage(figure, REFERENCES)
    return figure


def _draw_difference(panel: Axes, table: pa.Table, last: str, sites: list[str]) -> None:
    """Draw how much farther the first group is than the second, at every site."""
    colors = colors_of(sites)
    panel.axhline(0, color="0.35", linewidth=0.6, zorder=0)
    for site in distinct(table, "site"):
        _draw(panel, select(table, site=site), colors[site], interval=site == last)


def _draw(panel: Axes, line: pa.Table, color: Any, interval: bool) -> None:
    columns = (line[name].to_numpy() for name in ("step", "dissimilarity", "low", "high"))
    finite = np.isfinite(line["dissimilarity"].to_numpy())
    step, shown, low, high = (column[finite] for column in columns)
    panel.plot(step, shown, color=color, marker="o" if len(step) <= MARKED_POINTS else "", markersize=2)
    if interval:
        panel.fill_between(step, low, high, color=color, alpha=0.2, linewidth=0)


def _add_legend(figure: Figure, table: pa.Table, groups: Sequence[str], sites: list[str]) -> None:
    """Add the groups by color with their number of references, then the sites by color, beside the panels."""
    handles: list[Any] = []
    for name, color in zip(groups, _colors(groups), strict=True):
        count = max(distinct(select(table, group=name), "references"), default=0)
        handles.append(Line2D([], [], color=color, label=f"{name} ({count} reference{'s' if count > 1 else ''})"))
    handles.append(Patch(color="0.5", alpha=0.3, linewidth=0, label="95 % interval over references"))
    legend = figure.legend(handles=handles, title="group", loc="outside right upper", frameon=False, alignment="left")
    if len(sites) > 1:
        title, short = short_names(sites)
        lines = [Line2D([], [], color=c, label=n) for c, n in zip(colors_of(sites).values(), short, strict=True)]
        figure.legend(handles=lines, title=title, loc="outside right lower", frameon=False, alignment="left")
    legend.set_in_layout(True)


def _colors(groups: Sequence[str]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(groups))]


def _short(site: str) -> str:
    """Return a site in words: `blocks.3.resid_post` -> `resid_post of block 3`."""
    kind, layer = split_layer(site)
    return site if layer is None else f"{without_layer(kind)} of block {layer}"
