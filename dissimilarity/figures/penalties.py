"""The figure of stitching penalties over training: one panel per reference and fit, one line per site and direction."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dissimilarity.figures.style import STYLE, colors_of, short_names, write_coverage, write_figure
from dissimilarity.inference.coverage import HELD_OUT_TEXT
from dissimilarity.inference.jackknife import half_width

DIRECTIONS: dict[str, dict[str, Any]] = {
    "into": {"linestyle": "-", "marker": "o"},
    "from": {"linestyle": ":", "marker": "o", "markerfacecolor": "white"},
}


def draw_penalties(
    records: Sequence[Mapping[str, Any]], folder: Path, formats: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write `penalties.png`, `.pdf` or both into a folder and return their paths; none without values.

    Args:
        records: mappings with step, reference, fit (`direct` or `task`), direction (`into`: the model is the front and
            the reference the back, or `from`), site_front, value, stderr and sequences. Records without a value are
            left out.
        folder: the folder.
        formats: `png`, `pdf` or both.

    Example:
        >>> draw_penalties([{"step": 1, "value": math.nan}], Path("unused"))
        []
    """
    measured = [record for record in records if math.isfinite(record.get("value", math.nan))]
    return write_figure(penalties_figure(measured), folder, "penalties", formats) if measured else []


def penalties_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw penalties by training step, with 95 % intervals over held-out sequences as bars.

    Example:
        >>> curve = {"reference": "init", "fit": "direct", "direction": "into", "site_front": "embed"}
        >>> curve |= {"stderr": 0.1, "sequences": 16}
        >>> penalties_figure([{"step": step, "value": 1 / step, **curve} for step in (1, 2)]).axes[0].get_title()
        'vs init'
    """
    references, fits, sites = (
        list(dict.fromkeys(record[key] for record in records)) for key in ("reference", "fit", "site_front")
    )
    colors = colors_of(sites)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 2.3 * len(references), 0.5 + 1.9 * len(fits)), layout="constrained")
        axes = figure.subplots(len(fits), len(references), squeeze=False, sharex=True)
        for line, fit in enumerate(fits):
            for column, reference in enumerate(references):
                panel = axes[line, column]
                in_panel = [record for record in records if (record["fit"], record["reference"]) == (fit, reference)]
                _draw(panel, in_panel, colors)
                if line == 0:
                    panel.set_title(f"vs {reference}")
                if column == 0:
                    panel.set_ylabel(f"penalty, {fit} stitch\nnats per token")
        for panel in axes[-1]:
            panel.set_xlabel("training step")
        last = max(1, *(record["step"] for record in records))
        axes[0, 0].set_xlim(-0.06 * last, 1.06 * last)
        axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        title, names = short_names(sites)
        handles: list[Any] = [Line2D([], [], color=colors[site]) for site in sites]
        handles += [Line2D([], [], color="0.35", markersize=3, **style) for style in DIRECTIONS.values()]
        labels = [*names, "into the reference", "from the reference"]
        figure.legend(handles, labels, title=title, loc="outside right upper", frameon=False, alignment="left")
        write_coverage(figure, HELD_OUT_TEXT)
    return figure


def _draw(panel: Any, records: Sequence[Mapping[str, Any]], colors: Mapping[str, Any]) -> None:
    panel.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for site, color in colors.items():
        for direction, style in DIRECTIONS.items():
            line = [record for record in records if (record["site_front"], record["direction"]) == (site, direction)]
            if line:
                step, value, stderr, sequences = (
                    np.array([record[key] for record in line]) for key in ("step", "value", "stderr", "sequences")
                )
                half = half_width(stderr, sequences)
                panel.errorbar(step, value, half, color=color, markersize=3, elinewidth=0.8, **style)
