"""Figures of the study `dynamics`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from dissimilarity.figures.figure import PaperFigure, in_style
from dissimilarity.figures.layout import write_coverage
from dissimilarity.figures.style import colors_of, file_name, name_layers, short_names, spread
from dissimilarity.inference.coverage import CHECKPOINTS
from dissimilarity.measures.titles import dissimilarity_title
from studies.dynamics.numbers import Findings

MARKERS = ("o", "s", "^", "D", "v", "P")
GRAYS = ("0.2", "0.6", "0.4", "0.75", "0.3", "0.5")


def figures(findings: Findings, losses: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """Return every figure by file name."""
    drawn: dict[str, Figure] = {}
    with in_style():
        for measure in findings.measures:
            drawn[file_name(["steps", measure], drawn)] = _steps(findings, measure)
        drawn["arrival"] = _arrival(findings, losses)
    return drawn


def _steps(findings: Findings, measure: str) -> Figure:
    """Draw step x step maps, one column per layer; one row for each run with itself, and one for the first two runs."""
    crossed = tuple(findings.steps)[:2]
    pairs = [(a, b) for name, a, b in findings.maps if name == measure and (a == b or (a, b) == crossed)]
    kind, names = short_names(findings.sites)
    layers = spread(list(range(len(findings.sites))), 8)
    side = 1.05
    figure = PaperFigure(figsize=(1.9 + side * len(layers), 0.9 + (side + 0.12) * len(pairs)), layout="constrained")
    axes: Any = figure.subplots(len(pairs), len(layers), squeeze=False)
    top = max(float(np.nanmax(findings.maps[measure, a, b])) for a, b in pairs)
    null = findings.nulls[measure]
    top = max(top, null) if math.isfinite(null) else top
    image = None
    for row, (a, b) in enumerate(pairs):
        for column, layer in enumerate(layers):
            panel: Axes = axes[row, column]
            values = findings.maps[measure, a, b][layer]
            image = panel.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=top, aspect="auto")
            panel.spines[:].set_visible(False)
            panel.tick_params(length=1.5, labelsize=5.5)
            _name_steps(panel.yaxis, findings.steps[a], column == 0)
            _name_steps(panel.xaxis, findings.steps[b], row == len(pairs) - 1)
            panel.tick_params(axis="x", rotation=90)
            if row == 0:
                panel.set_title(names[layer])
            if column == 0:
                panel.set_ylabel(a, fontsize=6.5)
        axes[row, len(layers) // 2].set_xlabel(f"step of {b}", fontsize=6.5)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes.flat), aspect=20, pad=0.01)
    bar.set_label(f"{dissimilarity_title(measure)}, 0 = same")
    bar.ax.spines[:].set_visible(False)
    if math.isfinite(null):
        bar.ax.axhline(null, color="0.35", linewidth=0.8)
        bar.ax.text(-0.3, null, "null", ha="right", va="center", fontsize=6, color="0.35")
    figure.suptitle(kind, fontsize=8)
    return figure


def _name_steps(axis: Any, steps: Sequence[int], has_labels: bool) -> None:
    """Label a few of the steps; checkpoints are equally spaced."""
    ticks = spread(list(range(len(steps))), 5)
    axis.set_ticks(ticks, [f"{steps[index]:,}" for index in ticks] if has_labels else [""] * len(ticks))


def _arrival(findings: Findings, losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the distance of each layer from its final form, one row per measure; when it is halfway; the loss below."""
    runs = list(findings.steps)
    rows, columns = len(findings.measures) + 1, len(runs) + 1
    figure = PaperFigure(figsize=(1.3 + 2.3 * columns, 0.5 + 1.55 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    kind, names = short_names(findings.sites)
    for row, measure in enumerate(findings.measures):
        for number, run in enumerate(runs):
            panel: Axes = axes[row, number]
            _curves(panel, findings, measure, run, MARKERS[number % len(MARKERS)])
            if row == 0:
                panel.set_title(run)
            if number == 0:
                panel.set_ylabel(f"{dissimilarity_title(measure)}\nto the last checkpoint")
        _halfway(axes[row, -1], findings, measure)
        name_layers(axes[row, -1].xaxis, names)
    axes[-2, -1].set_xlabel(kind)
    for number, run in enumerate(runs):
        panel = axes[-1, number]
        steps = 1 + np.array(findings.steps[run])
        panel.plot(steps, losses[run], color="0.2", marker=".", markersize=3, linewidth=1)
        _log(panel, "x")
        panel.set_xlabel("1 + training step")
        if number == 0:
            panel.set_ylabel("loss, nats/token")
    axes[-1, -1].set_axis_off()
    if len(runs) > 1:
        axes[-1, -1].legend(*axes[0, -1].get_legend_handles_labels(), loc="upper left", frameon=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title=kind)
    write_coverage(figure, CHECKPOINTS)
    return figure


def _curves(panel: Axes, findings: Findings, measure: str, run: str, marker: str) -> None:
    """Draw the dissimilarity of each layer to the last checkpoint over training, with a marker where it is halfway."""
    _, names = short_names(findings.sites)
    colors = colors_of(findings.sites)
    steps = 1 + np.array(findings.steps[run])
    for site, name, arrival in zip(findings.sites, names, findings.arrivals[measure, run], strict=True):
        values = findings.maps[measure, run, run][arrival.layer, :, -1]
        panel.plot(steps, values, color=colors[site], label=name, linewidth=1)
        if math.isfinite(arrival.half):
            panel.plot([1 + arrival.half], [arrival.start / 2], marker, color=colors[site], markersize=3.5)
    _log(panel, "x")
    panel.set_ylim(bottom=0)


def _halfway(panel: Axes, findings: Findings, measure: str) -> None:
    """Draw the step at which each layer is halfway, with the checkpoints on both sides."""
    runs = list(findings.steps)
    for number, run in enumerate(runs):
        arrivals = findings.arrivals[measure, run]
        x = np.arange(len(arrivals)) + 0.12 * (number - (len(runs) - 1) / 2)
        half = np.array([1 + arrival.half for arrival in arrivals])
        low = half - [1 + arrival.bracket[0] for arrival in arrivals]
        high = [1 + arrival.bracket[1] for arrival in arrivals] - half
        style: Any = {"marker": MARKERS[number % len(MARKERS)], "markersize": 3.5, "linewidth": 0, "elinewidth": 0.7}
        error = np.nan_to_num(np.clip([low, high], 0, None))
        panel.errorbar(x, half, error, color=GRAYS[number % len(GRAYS)], label=run, **style)
    _log(panel, "y")
    # Limits at powers of 2, so that the axis has at least two numbers.
    lowest, highest = np.log2(panel.get_ylim())
    panel.set_ylim(2 ** np.floor(lowest), 2 ** np.ceil(highest))
    panel.set_ylabel("1 + step halfway")


def _log(panel: Axes, name: str) -> None:
    """Make an axis of steps logarithmic with base 2, as checkpoints are saved."""
    (panel.set_xscale if name == "x" else panel.set_yscale)("log", base=2)
    axis = panel.xaxis if name == "x" else panel.yaxis
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_formatter(NullFormatter())
