"""The figures of the study `scaling`."""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dissimilarity.figures.models import models_figure
from dissimilarity.figures.style import MEANING, STYLE, file_name
from studies.common.regions import REGIONS
from studies.scaling.numbers import Findings

COLORS = {"seed": "0.55", "width": "#3b528b", "depth": "#d1495b", "both": "#edae49"}
CELL = 0.11
"""Inches a layer in the heat maps, at least a panel's."""
PANEL = 0.62


def figures(found: Findings, table: pa.Table) -> dict[str, Figure]:
    """Every figure by file name."""
    made: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        for measure in found.measures:
            for control in found.controls:
                parts = ["heatmaps", measure, *([control.replace(" ", "_")] if control != found.controls[0] else [])]
                made[file_name(parts, made)] = _heatmaps(found, control, measure)
        made["sizes"] = _sizes(found)
        made["regions"] = _regions(found)
        made["losses"] = _losses(found)
    kinds = {model.label: name for name, members in found.sizes.items() for model in members}
    made["models"] = models_figure(table, kinds)
    return made


def _heatmaps(found: Findings, control: str, measure: str) -> Figure:
    """Layer x layer of every two sizes on one scale: below the diagonal between sizes, on it between seeds of one
    size, and in a column of their own models with themselves, with the blocks that were found."""
    names = list(found.sizes)
    count = len(names)
    depths = [members[0].depth for members in found.sizes.values()]
    side = [max(PANEL, CELL * depth) for depth in depths]
    figure = Figure(figsize=(1.9 + sum(side) + max(side) + 0.1 * count, 0.9 + sum(side)), layout="constrained")
    axes: Any = figure.subplots(count, count + 1, squeeze=False, width_ratios=[*side, max(side)], height_ratios=side)
    null = found.null[control, measure]
    drawn = [values for key, values in found.maps.items() if key[:2] == (control, measure)]
    drawn += [values for key, values in found.floors.items() if key[:2] == (control, measure)]
    top = float(np.nanmax([*(np.nanmax(values) for values in drawn), null if math.isfinite(null) else 0, 1e-3]))
    image = None
    for row, second in enumerate(names):
        for column, first in enumerate(names):
            panel = axes[row, column]
            if column > row:
                panel.remove()
                continue
            values = found.floors.get((control, measure, first)) if row == column else None
            values = found.maps[control, measure, first, second].T if row != column else values
            if values is None:
                panel.text(0.5, 0.5, "one model", transform=panel.transAxes, ha="center", va="center", fontsize=5)
                panel.set_xticks([], [])
                panel.set_yticks([], [])
            else:
                image = _map(panel, values, top)
            if column == 0:
                panel.set_ylabel(second)
            if row == count - 1:
                panel.set_xlabel(first)
        panel = axes[row, count]
        image = _map(panel, found.maps[control, measure, second, second], top)
        for layers in list(found.blocks[second].values())[1:]:
            for line in (panel.axhline, panel.axvline):
                line(layers.start - 0.5, color="white", linewidth=0.9)
        panel.set_title("with itself" if row == 0 else "")
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes[:, count]), aspect=24, pad=0.04)
    bar.set_label(f"{measure}, {MEANING}")
    bar.ax.spines[:].set_visible(False)
    if math.isfinite(null):
        bar.ax.axhline(null, color="0.35", linewidth=0.8)
        bar.ax.text(-0.3, null, "null", ha="right", va="center", fontsize=6, color="0.35")
    figure.suptitle(
        f"mean over pairs of models, layer by layer; on the diagonal the seeds of one size; {control}", fontsize=8
    )
    return figure


def _map(panel: Axes, values: np.ndarray, top: float) -> Any:
    image = panel.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=top, aspect="auto")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=5)
    for axis, layers in ((panel.xaxis, values.shape[1]), (panel.yaxis, values.shape[0])):
        axis.set_ticks(sorted({0, layers - 1}))
    return image


def _sizes(found: Findings) -> Figure:
    """Dissimilarity against the ratio of sizes, a panel a measure; seeds at 0; then calibrated, then the excess."""
    rows = [(control, scale) for control in found.controls for scale in ("dissimilarity", "far")]
    figure, axes = _grid(len(rows), len(found.measures), 2.2, 1.6, sharex=True)
    for line, (control, scale) in enumerate(rows):
        for column, measure in enumerate(found.measures):
            panel: Axes = axes[line, column]
            key = (control, measure, scale, "all")
            for place, one in enumerate(found.between):
                value = one.values[key]
                error = None if math.isnan(value.low) else [[value.mean - value.low], [value.high - value.mean]]
                # Sizes of one ratio beside each other.
                x = one.doublings + 0.05 * (place % 5 - 2)
                style: Any = {"marker": "o", "markersize": 3, "linewidth": 0.9, "color": COLORS[one.kind]}
                panel.errorbar([x], [value.mean], error, **style)
            level = found.null[control, measure] if scale == "dissimilarity" else 1.0
            if math.isfinite(level):
                panel.axhline(level, color="0.5", linewidth=0.7, linestyle=(0, (4, 3)))
                panel.annotate(
                    "null", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6
                )
            panel.set_ylim(bottom=0)
            if line == 0:
                panel.set_title(measure)
            if line == len(rows) - 1:
                panel.set_xlabel("doublings of the blocks' parameters")
            if column == 0:
                words = "dissimilarity" if scale == "dissimilarity" else "1 - calibrated"
                panel.set_ylabel(f"{words}\n{control}")
    _legend(
        figure, {"seeds of one size": "seed", "width alone": "width", "depth alone": "depth", "both": "both"}, found
    )
    return figure


def _regions(found: Findings) -> Figure:
    """First, middle and last block: between sizes, each pair a point, and between the seeds of one size."""
    figure, axes = _grid(len(found.controls), len(found.measures), 2.2, 1.7)
    for line, control in enumerate(found.controls):
        for column, measure in enumerate(found.measures):
            panel: Axes = axes[line, column]
            for place, region in enumerate(REGIONS):
                key = (control, measure, "dissimilarity", region)
                for shift, kind in enumerate(COLORS):
                    values = [one.values[key].mean for one in found.between if one.kind == kind]
                    values = [value for value in values if math.isfinite(value)]
                    if values:
                        x = place + 0.18 * (shift - 1.5)
                        panel.plot([x] * len(values), values, "o", markersize=2.5, color=COLORS[kind], alpha=0.45)
                        panel.plot([x - 0.07, x + 0.07], [np.mean(values)] * 2, color=COLORS[kind], linewidth=1.6)
            panel.set_xticks(range(len(REGIONS)), REGIONS)
            panel.set_ylim(bottom=0)
            if line == 0:
                panel.set_title(measure)
            if column == 0:
                panel.set_ylabel(f"dissimilarity\n{control}")
    _legend(
        figure, {"seeds of one size": "seed", "width alone": "width", "depth alone": "depth", "both": "both"}, found
    )
    return figure


def _losses(found: Findings) -> Figure:
    """The loss of every model by its size, and dissimilarity against the gap of losses."""
    figure, axes = _grid(1, 2, 2.9, 2.1)
    left, right = axes[0]
    for name, members in found.sizes.items():
        left.plot(
            [model.parameters for model in members], [model.loss for model in members], "o", markersize=3, color="0.3"
        )
        top = max((model.loss for model in members), default=math.nan)
        if math.isfinite(top):
            left.annotate(
                name, (members[0].parameters, top), (0, 4), textcoords="offset points", fontsize=5.5, ha="center"
            )
    left.set_xscale("log")
    left.margins(0.12, 0.15)
    left.set_xlabel("parameters of the blocks, about")
    left.set_ylabel("loss, nats/token")
    mean = {name: float(np.mean([model.loss for model in members])) for name, members in found.sizes.items()}
    key = (found.controls[0], found.measures[0], "dissimilarity", "all")
    for one in found.between:
        gap = abs(mean[one.sizes[0]] - mean[one.sizes[1]])
        right.plot([gap], [one.values[key].mean], "o", markersize=3, color=COLORS[one.kind])
    right.set_ylim(bottom=0)
    right.set_xlabel("gap between the losses, nats/token")
    right.set_ylabel(f"{found.measures[0]}, dissimilarity")
    _legend(
        figure, {"seeds of one size": "seed", "width alone": "width", "depth alone": "depth", "both": "both"}, found
    )
    return figure


def _grid(rows: int, columns: int, width: float, height: float, **share: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(1.5 + width * columns, 0.5 + height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _legend(figure: Figure, names: dict[str, str], found: Findings) -> None:
    there = {one.kind for one in found.between}
    shown = {label: kind for label, kind in names.items() if kind in there}
    handles = [Line2D([], [], marker="o", markersize=3, linewidth=0, color=COLORS[kind]) for kind in shown.values()]
    figure.legend(handles, list(shown), loc="outside right upper", frameon=False)
