"""The figure of stitching penalties over training: one panel per reference and fit, one line per site and direction."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dissimilarity.figures.figure import Format, in_style, write_figure
from dissimilarity.figures.layout import ENTRY, LINE, Ax, Frame, Legend, Size, make_panels
from dissimilarity.figures.style import colors_of, short_names, spread
from dissimilarity.inference.coverage import HELD_OUT_TEXT
from dissimilarity.inference.jackknife import half_width

PANEL = (1.85, 1.5)
DIRECTIONS: dict[str, dict[str, Any]] = {
    "into": {"linestyle": "-", "marker": "o"},
    "from": {"linestyle": ":", "marker": "o", "markerfacecolor": "white"},
}


def draw_penalties(
    records: Sequence[Mapping[str, Any]], folder: Path, formats: Sequence[Format] = ("png", "pdf"), model: str = ""
) -> list[Path]:
    """Write the figure `penalties` into a folder and return the paths of its files; none without values.

    Args:
        records: mappings with step, reference, fit (`direct` or `task`), direction (`into`: the model is the front and
            the reference the back, or `from`), site_front, value, stderr and sequences. Records without a value are
            left out.
        folder: the folder.
        formats: any of `png`, `pdf` and `svg`.
        model: name of the model in training, for the title.

    Examples:
        >>> draw_penalties([{"step": 1, "value": math.nan}], Path("unused"))
        []
    """
    measured = [record for record in records if math.isfinite(record.get("value", math.nan))]
    return write_figure(penalties_figure(measured, model), folder, "penalties", formats) if measured else []


@in_style()
def penalties_figure(
    records: Sequence[Mapping[str, Any]], model: str = "", *, figsize: Size | None = None, ax: Ax | None = None
) -> Figure:
    """Draw penalties by training step, with 95% intervals over held-out sequences as bars.

    Args:
        records: as for `draw_penalties`, with values.
        model: name of the model in training, for the title.
        figsize: width and height in inches; a column of a paper is 3.25 wide.
        ax: axes of your own figure, one per fit and reference.

    Examples:
        >>> curve = {"reference": "init", "fit": "direct", "direction": "into", "site_front": "embed"}
        >>> curve |= {"stderr": 0.1, "sequences": 16}
        >>> penalties_figure([{"step": step, "value": 1 / step, **curve} for step in (1, 2)]).axes[0].get_title()
        'vs init'
    """
    references, fits, sites = (
        list(dict.fromkeys(record[key] for record in records)) for key in ("reference", "fit", "site_front")
    )
    colors = colors_of(sites)
    title, names = short_names(sites)
    fitting = int((PANEL[1] * len(fits) - 0.2) / ENTRY) - 3
    shown = spread(list(zip(names, colors.values(), strict=True)), max(3, fitting))
    entries: list[tuple[str, Any]] = [(name, Line2D([], [], color=color)) for name, color in shown]
    for direction, style in DIRECTIONS.items():
        entries.append((f"{direction} the reference", Line2D([], [], color="0.35", markersize=3, **style)))
    titles = [fill(f"vs {reference}", 30) for reference in references]
    frame = Frame(
        left=0.82,
        top=0.1 + LINE * max(text.count("\n") + 1 for text in titles),
        title=model,
        notes=[HELD_OUT_TEXT],
        legends=[Legend(title, entries)],
    )
    figure, axes = make_panels(len(fits), len(references), PANEL, frame, figsize, ax, sharex=True)
    for line, fit in enumerate(fits):
        for column, reference in enumerate(references):
            in_panel = [record for record in records if (record["fit"], record["reference"]) == (fit, reference)]
            _draw(axes[line, column], in_panel, colors)
        axes[line, 0].set_ylabel(f"penalty, {fit} stitch\n(nats per token)")
    for panel, text in zip(axes[0], titles, strict=True):
        panel.set_title(text)
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    last = max(1, *(record["step"] for record in records))
    for panel in axes.flat if ax is not None else axes.flat[:1]:
        panel.set_xlim(-0.06 * last, 1.06 * last)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
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
