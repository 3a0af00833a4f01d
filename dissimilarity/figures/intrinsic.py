"""The figure of one model alone: effective rank and spectrum of each site over training, beside those of references."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import ENTRY, LINE, Ax, Frame, Legend, Size, make_panels
from dissimilarity.figures.style import colors_of, short_names, spread, style_step_axis
from dissimilarity.inference.jackknife import half_width

NAMES = {
    "rankme": "RankMe\n(effective rank)",
    "participation_ratio": "participation ratio\n(dimensions)",
    "alpha_req": "alpha-ReQ\n(decay of the spectrum)",
    "first_component_share": "share of the first\nprincipal component",
}
"""What the vertical axis of each measure says."""

PANEL = (1.85, 1.25)
REFERENCES = 4
"""Columns of the figure: the first references."""


@in_style()
def intrinsic_figure(
    records: Sequence[Mapping[str, Any]], model: str = "", *, figsize: Size | None = None, ax: Ax | None = None
) -> Figure:
    """Draw measures of one model alone by training step, one line per site, with those of references dashed.

    Args:
        records: records of the journal `intrinsic.jsonl`.
        model: name of the model in training, for the title.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, one per measure and reference.

    Returns:
        A figure of measures (rows) by references (columns), with 95% intervals over the probe text. Sites of a
        reference that the model has too share its color, others are gray.

    Examples:
        >>> site = {"reference": "init", "of": "model", "site": "embed", "measure": "rankme"}
        >>> values = {"value": 4.0, "stderr": 0.1, "n_units": 8}
        >>> intrinsic_figure([{"step": step, **site, **values} for step in (0, 8)]).axes[0].get_title()
        'beside init'
    """
    measures, references = _distinct(records, "measure"), _distinct(records, "reference")[:REFERENCES]
    sites = _distinct([record for record in records if record["of"] == "model"], "site")
    colors = colors_of(sites)
    titles = [fill(f"beside {reference}", 30) for reference in references]
    frame = Frame(
        left=0.9,
        top=0.1 + LINE * max(title.count("\n") + 1 for title in titles),
        title=model,
        legends=[_legend(colors, len(measures))],
    )
    shared = {"sharex": True, "sharey": "row"}
    figure, axes = make_panels(len(measures), len(references), PANEL, frame, figsize, ax, **shared)
    for row, measure in enumerate(measures):
        for column, reference in enumerate(references):
            in_panel = [r for r in records if (r["measure"], r["reference"]) == (measure, reference)]
            _draw(axes[row, column], in_panel, colors)
        axes[row, 0].set_ylabel(NAMES.get(measure, measure))
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    for panel in axes.flat if ax is not None else axes.flat[:1]:
        style_step_axis(panel, max(record["step"] for record in records))
    return figure


def _draw(panel: Axes, records: list[Mapping[str, Any]], colors: Mapping[str, Any]) -> None:
    """Draw one panel: the sites of the model with their intervals, and those of a reference."""
    for owner, style in (("model", "-"), ("reference", "--")):
        owned = [record for record in records if record["of"] == owner and math.isfinite(record["value"])]
        for site in _distinct(owned, "site"):
            line = sorted((record for record in owned if record["site"] == site), key=lambda record: record["step"])
            step, value, stderr, n_units = (
                np.array([record[key] for record in line]) for key in ("step", "value", "stderr", "n_units")
            )
            color = colors.get(site, "0.6")
            if owner == "model":
                half = np.nan_to_num(half_width(stderr.astype(float), n_units))
                panel.fill_between(step, value - half, value + half, color=color, alpha=0.2, linewidth=0)
            marker = "o" if owner == "model" else ""
            panel.plot(step, value, style, color=color, marker=marker, markersize=2, linewidth=1.2 if marker else 0.8)


def _legend(colors: Mapping[str, Any], rows: int) -> Legend:
    """Return sites by color, evenly thinned if there are many, then everything else."""
    title, names = short_names(list(colors))
    fitting = int((PANEL[1] * rows - 0.2) / ENTRY) - 3
    shown = spread(list(zip(names, colors.values(), strict=True)), max(3, fitting))
    entries: list[tuple[str, Any]] = [(name, Line2D([], [], color=color)) for name, color in shown]
    entries += [
        ("95% interval (probe text)", Patch(color=shown[0][1], alpha=0.2, linewidth=0)),
        ("reference", Line2D([], [], color="0.35", linestyle="--", linewidth=0.8)),
    ]
    return Legend(title, entries)


def _distinct(records: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(record[key] for record in records))
