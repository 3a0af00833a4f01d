"""The figure of reference groups: toward which of them a model drifts while it trains."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dissimilarity.capture.site_names import split_layer
from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import LINE, Ax, Frame, Legend, Size, make_panels
from dissimilarity.figures.style import (
    GROUP_COLORS,
    MARKED_POINTS,
    colors_of,
    short_names,
    spread,
    step_label,
    style_step_axis,
    without_layer,
)
from dissimilarity.inference.coverage import REFERENCES
from dissimilarity.inference.drift import between, names
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.tables.curves import distinct, select

PANEL = (1.85, 1.45)


@in_style()
def groups_figure(table: pa.Table, model: str = "", *, figsize: Size | None = None, ax: Ax | None = None) -> Figure:
    r"""Draw a table of reference groups: one column per measure, the groups' means at the last site, their difference.

    Args:
        table: records of `groups.parquet`.
        model: name of the model in training, for the title.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure: one per measure, and below each of them one for the difference of two groups.

    Returns:
        A figure with 95% intervals over references, for groups of three or more. The difference is drawn at every
        site, at the last site with its interval. Below 0 the model is nearer to the first group.

    Examples:
        >>> at = {"tokens": 0, "measure": "cka", "site": "embed", "low": 0.1, "high": 0.6, "references": 3}
        >>> records = [{"step": s, "group": "solu", "dissimilarity": 0.5 / s, **at} for s in (1, 2, 4)]
        >>> groups_figure(pa.Table.from_pylist(records)).axes[0].get_title()
        '1 - CKA\nat embed'
    """
    measures, sites = distinct(table, "measure"), distinct(table, "site")
    groups = names(table)
    rows = 2 if len(groups) == 2 else 1
    titles = [
        f"{fill(dissimilarity_title(measure), 30)}\nat {_short(distinct(select(table, measure=measure), 'site')[-1])}"
        for measure in measures
    ]
    frame = Frame(
        left=0.82,
        top=0.1 + LINE * max(title.count("\n") + 1 for title in titles),
        title=model,
        notes=[REFERENCES],
        legends=_legends(table, groups, sites if rows > 1 else []),
    )
    figure, axes = make_panels(rows, len(measures), PANEL, frame, figsize, ax, sharex=True)
    for column, (measure, title) in enumerate(zip(measures, titles, strict=True)):
        records = select(table, measure=measure)
        site = distinct(records, "site")[-1]
        top = axes[0, column]
        top.set_title(title)
        for name, color in zip(groups, _colors(groups), strict=True):
            _draw(top, select(records, group=name, site=site), color, interval=True)
        top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
        if rows > 1:
            _draw_difference(axes[1, column], select(records, group=between(*groups)), site, sites)
    axes[0, 0].set_ylabel("dissimilarity\n(0 = same)")
    if rows > 1:
        first, second = groups
        axes[1, 0].set_ylabel(fill(f"to {first} minus to {second} (below 0: nearer to {first})", 30), fontsize=7)
    for panel in axes[-1]:
        panel.set_xlabel(step_label(table))
    for panel in axes.flat if ax is not None else axes.flat[:1]:
        style_step_axis(panel, max(distinct(table, "step"), default=0))
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


def _legends(table: pa.Table, groups: Sequence[str], sites: list[str]) -> list[Legend]:
    """Return the groups by color with their number of references, then the sites by color."""
    entries: list[tuple[str, Any]] = []
    for name, color in zip(groups, _colors(groups), strict=True):
        count = max(distinct(select(table, group=name), "references"), default=0)
        entries.append((f"{name} ({count} reference{'s' if count > 1 else ''})", Line2D([], [], color=color)))
    entries.append(("95% interval over references", Patch(color="0.5", alpha=0.3, linewidth=0)))
    legends = [Legend("group", entries)]
    if len(sites) > 1:
        title, short = short_names(sites)
        lines = [
            (name, Line2D([], [], color=color)) for name, color in zip(short, colors_of(sites).values(), strict=True)
        ]
        legends.append(Legend(title, spread(lines, 12)))
    return legends


def _colors(groups: Sequence[str]) -> list[str]:
    return [GROUP_COLORS[index % len(GROUP_COLORS)] for index in range(len(groups))]


def _short(site: str) -> str:
    """Return a site in words: `blocks.3.resid_post` -> `resid_post of block 3`."""
    kind, layer = split_layer(site)
    return site if layer is None else f"{without_layer(kind)} of block {layer}"
