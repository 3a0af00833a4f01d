"""The figure of one model alone: effective rank and spectrum of each site over training, beside those of references."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dissimilarity.figures.style import STYLE, colors_of, short_names, spread, style_step_axis
from dissimilarity.inference.jackknife import half_width

NAMES = {
    "rankme": "RankMe\n(effective rank)",
    "participation_ratio": "participation ratio\n(dimensions)",
    "alpha_req": "alpha-ReQ\n(decay of the spectrum)",
    "first_component_share": "share of the first\nprincipal component",
}
"""What the vertical axis of each measure says."""

REFERENCES = 4
"""Columns of the figure: the first references."""


def intrinsic_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw measures of one model alone by training step, one line per site, with those of references dashed.

    Args:
        records: records of the journal `intrinsic.jsonl`.

    Returns:
        A figure of measures (rows) by references (columns), with 95 % intervals over the probe text. Sites of a
        reference that the model has too share its color, others are gray.

    Example:
        >>> site = {"reference": "init", "of": "model", "site": "embed", "measure": "rankme"}
        >>> values = {"value": 4.0, "stderr": 0.1, "n_units": 8}
        >>> intrinsic_figure([{"step": step, **site, **values} for step in (0, 8)]).axes[0].get_title()
        'beside init'
    """
    measures, references = _distinct(records, "measure"), _distinct(records, "reference")[:REFERENCES]
    sites = _distinct([record for record in records if record["of"] == "model"], "site")
    colors = colors_of(sites)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.3 + 2.3 * len(references), 0.5 + 1.5 * len(measures)), layout="constrained")
        axes = figure.subplots(len(measures), len(references), squeeze=False, sharex=True, sharey="row")
        for row, measure in enumerate(measures):
            for column, reference in enumerate(references):
                panel = axes[row, column]
                _draw(panel, [r for r in records if (r["measure"], r["reference"]) == (measure, reference)], colors)
                if row == 0:
                    panel.set_title(fill(f"beside {reference}", 36))
            axes[row, 0].set_ylabel(NAMES.get(measure, measure))
        for panel in axes[-1]:
            panel.set_xlabel("training step")
        style_step_axis(axes[0, 0], max(record["step"] for record in records))
        _add_legend(figure, colors)
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


def _add_legend(figure: Figure, colors: Mapping[str, Any]) -> None:
    """Add a legend beside the panels: sites by color, evenly thinned if there are many, then everything else."""
    sites = list(colors)
    title, names = short_names(sites)
    shown = spread(sites, max(3, int((figure.get_figheight() - 1.1) / 0.16)))
    handles: list[Any] = [Line2D([], [], color=colors[site], label=names[sites.index(site)]) for site in shown]
    handles += [
        Patch(color=colors[sites[0]], alpha=0.2, linewidth=0, label="95 % interval (probe text)"),
        Line2D([], [], color="0.35", linestyle="--", linewidth=0.8, label="reference"),
    ]
    figure.legend(handles=handles, title=title, loc="outside right upper", frameon=False, alignment="left")


def _distinct(records: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(record[key] for record in records))
