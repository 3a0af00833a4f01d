"""The figures of the study `dynamics`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dissimilarity.figures.style import MEANING, STYLE, colors_of, file_name, short_names, spread
from studies.dynamics.numbers import Findings

MARKERS = ("o", "s")


def figures(found: Findings, losses: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """Every figure by file name."""
    made: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        for measure in found.measures:
            made[file_name(["steps", measure], made)] = _steps(found, measure)
        made["arrival"] = _arrival(found, losses)
    return made


def _steps(found: Findings, measure: str) -> Figure:
    """Step x step, a column a layer; a row each run with itself, and one run with the other."""
    pairs = [(a, b) for name, a, b in found.maps if name == measure]
    kind, names = short_names(found.sites)
    shown = spread(list(range(len(found.sites))), 8)
    side = 1.05
    figure = Figure(figsize=(1.9 + side * len(shown), 0.9 + (side + 0.12) * len(pairs)), layout="constrained")
    axes: Any = figure.subplots(len(pairs), len(shown), squeeze=False)
    top = max(float(np.nanmax(found.maps[measure, a, b])) for a, b in pairs)
    null = found.nulls[measure]
    top = max(top, null) if math.isfinite(null) else top
    image = None
    for row, (a, b) in enumerate(pairs):
        for column, layer in enumerate(shown):
            panel: Axes = axes[row, column]
            values = found.maps[measure, a, b][layer]
            image = panel.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=top, aspect="auto")
            panel.spines[:].set_visible(False)
            panel.tick_params(length=1.5, labelsize=5.5)
            _name_steps(panel.yaxis, found.steps[a], column == 0)
            _name_steps(panel.xaxis, found.steps[b], row == len(pairs) - 1)
            panel.tick_params(axis="x", rotation=90)
            if row == 0:
                panel.set_title(names[layer])
            if column == 0:
                panel.set_ylabel(a, fontsize=6.5)
        axes[row, len(shown) // 2].set_xlabel(f"step of {b}", fontsize=6.5)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes.flat), aspect=20, pad=0.01)
    bar.set_label(f"{measure}, {MEANING}")
    bar.ax.spines[:].set_visible(False)
    if math.isfinite(null):
        bar.ax.axhline(null, color="0.35", linewidth=0.8)
        bar.ax.text(-0.3, null, "null", ha="right", va="center", fontsize=6, color="0.35")
    figure.suptitle(kind, fontsize=8)
    return figure


def _name_steps(axis: Any, steps: Sequence[int], labels: bool) -> None:
    """A few of the steps by name; checkpoints stand at equal distances."""
    chosen = spread(list(range(len(steps))), 5)
    axis.set_ticks(chosen, [f"{steps[index]:,}" for index in chosen] if labels else [""] * len(chosen))


def _arrival(found: Findings, losses: Mapping[str, Sequence[float]]) -> Figure:
    """How far each layer is from its end over training, a row a measure; when it is half-way; the loss below."""
    runs = list(found.steps)
    rows, columns = len(found.measures) + 1, len(runs) + 1
    figure = Figure(figsize=(1.3 + 2.3 * columns, 0.5 + 1.55 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    kind, names = short_names(found.sites)
    colors = colors_of(found.sites)
    for row, measure in enumerate(found.measures):
        right: Axes = axes[row, -1]
        for number, run in enumerate(runs):
            panel: Axes = axes[row, number]
            steps = 1 + np.array(found.steps[run])
            arrivals = found.arrivals[measure, run]
            for site, name, each in zip(found.sites, names, arrivals, strict=True):
                values = found.maps[measure, run, run][each.layer, :, -1]
                panel.plot(steps, values, color=colors[site], label=name, linewidth=1)
                if math.isfinite(each.half):
                    panel.plot([1 + each.half], [each.start / 2], MARKERS[number], color=colors[site], markersize=3.5)
            _log(panel, "x")
            panel.set_ylim(bottom=0)
            if row == 0:
                panel.set_title(run)
            if number == 0:
                panel.set_ylabel(f"{measure}\nto the last checkpoint")
            places = np.arange(len(arrivals)) + 0.12 * (number - (len(runs) - 1) / 2)
            half = np.array([1 + each.half for each in arrivals])
            low = half - [1 + each.bracket[0] for each in arrivals]
            high = [1 + each.bracket[1] for each in arrivals] - half
            style: Any = {"marker": MARKERS[number], "markersize": 3.5, "linewidth": 0, "elinewidth": 0.7}
            error = np.nan_to_num(np.clip([low, high], 0, None))
            right.errorbar(places, half, error, color=("0.2", "0.6")[number], label=run, **style)
        _log(right, "y")
        # From power to power, lest all lies between two of them and no number stands at the axis.
        lowest, highest = np.log2(right.get_ylim())
        right.set_ylim(2 ** np.floor(lowest), 2 ** np.ceil(highest))
        right.set_xticks(range(len(names)), names)
        right.set_ylabel("1 + step half-way")
        if row == len(found.measures) - 1:
            right.set_xlabel(kind)
    for number, run in enumerate(runs):
        panel = axes[-1, number]
        panel.plot(1 + np.array(found.steps[run]), losses[run], color="0.2", marker=".", markersize=3, linewidth=1)
        _log(panel, "x")
        panel.set_xlabel("1 + training step")
        if number == 0:
            panel.set_ylabel("loss, nats/token")
    axes[-1, -1].set_axis_off()
    if len(runs) > 1:
        axes[-1, -1].legend(*axes[0, -1].get_legend_handles_labels(), loc="upper left", frameon=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title=kind)
    return figure


def _log(panel: Axes, axis: str) -> None:
    """Steps by their powers of 2, as they are saved."""
    (panel.set_xscale if axis == "x" else panel.set_yscale)("log", base=2)
    of = panel.xaxis if axis == "x" else panel.yaxis
    of.set_major_formatter("{x:,.0f}")
