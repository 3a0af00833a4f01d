"""Figures of the study `scaling`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullFormatter

from dissimilarity.figures.figure import PaperFigure, in_style
from dissimilarity.figures.labels import place_labels
from dissimilarity.figures.layout import widest, write_coverage
from dissimilarity.figures.models import model_pages, models_figure
from dissimilarity.figures.style import GROUP_COLORS, file_name
from dissimilarity.inference.coverage import SEEDS
from dissimilarity.measures.titles import dissimilarity_title
from studies.common.regions import REGIONS
from studies.scaling.numbers import Findings

COLORS = {"seed": "0.55", "width": GROUP_COLORS[0], "depth": GROUP_COLORS[1], "both": GROUP_COLORS[4]}
LEGEND = {"seed": "seeds of one size", "width": "width alone", "depth": "depth alone", "both": "both"}
CELL = 0.11
"""Inches per layer in the heat maps."""
PANEL = 0.62
"""Minimum side of a heat map in inches."""


def figures(findings: Findings, table: pa.Table) -> dict[str, Figure]:
    """Return every figure by file name.

    Args:
        findings: the numbers.
        table: the comparison without outlier control.
    """
    drawn: dict[str, Figure] = {}
    with in_style():
        for measure in findings.measures:
            for control in findings.controls:
                end = [control.replace(" ", "_")] if control != findings.controls[0] else []
                drawn[file_name(["heatmaps", measure, *end], drawn)] = _heatmaps(findings, control, measure)
        drawn["sizes"] = _sizes(findings)
        drawn["regions"] = _regions(findings)
        drawn["losses"] = _losses(findings)
    sizes = {model.label: name for name, members in findings.sizes.items() for model in members}
    for number, page in enumerate(model_pages(table), 1):
        drawn[file_name(["models", *([str(number)] if number > 1 else [])], drawn)] = models_figure(page, sizes)
    return drawn


def _heatmaps(findings: Findings, control: str, measure: str) -> Figure:
    """Draw layer x layer maps of every two sizes on one scale.

    Pairs of sizes are below the diagonal, seeds of one size on it. The last column shows models with themselves and
    the blocks of layers.
    """
    names = list(findings.sizes)
    count = len(names)
    side = [max(PANEL, CELL * members[0].depth) for members in findings.sizes.values()]
    figure = PaperFigure(figsize=(1.9 + sum(side) + max(side) + 0.1 * count, 0.9 + sum(side)), layout="constrained")
    axes: Any = figure.subplots(count, count + 1, squeeze=False, width_ratios=[*side, max(side)], height_ratios=side)
    null = findings.null[control, measure]
    maps = {key: values for key, values in (findings.maps | findings.floors).items() if key[:2] == (control, measure)}
    top = float(np.nanmax([*(np.nanmax(values) for values in maps.values()), null if math.isfinite(null) else 0, 1e-3]))
    for row, second in enumerate(names):
        for column, first in enumerate(names):
            panel = axes[row, column]
            if column > row:
                panel.remove()
                continue
            if row == column:
                _map(panel, maps.get((control, measure, first)), top)
            else:
                _map(panel, maps[control, measure, first, second].T, top)
            if column == 0:
                panel.set_ylabel(second)
            if row == count - 1:
                panel.set_xlabel(first)
        panel = axes[row, count]
        image = _map(panel, maps[control, measure, second, second], top)
        for layers in list(findings.blocks[second].values())[1:]:
            for line in (panel.axhline, panel.axvline):
                line(layers.start - 0.5, color="white", linewidth=0.9)
        panel.set_title("with itself" if row == 0 else "")
    bar = figure.colorbar(image, ax=list(axes[:, count]), aspect=24, pad=0.04)
    bar.set_label(f"{dissimilarity_title(measure)}, 0 = same")
    bar.ax.spines[:].set_visible(False)
    if math.isfinite(null):
        bar.ax.axhline(null, color="0.35", linewidth=0.8)
        bar.ax.text(-0.3, null, "null", ha="right", va="center", fontsize=6, color="0.35")
    figure.suptitle(f"mean over pairs of models by layer, seeds of one size on the diagonal; {control}", fontsize=8)
    return figure


def _map(panel: Axes, values: np.ndarray | None, top: float) -> Any:
    """Draw one heat map; a size without seeds to compare has none."""
    if values is None:
        panel.text(0.5, 0.5, "one model", transform=panel.transAxes, ha="center", va="center", fontsize=5)
        panel.set_xticks([], [])
        panel.set_yticks([], [])
        return None
    image = panel.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=top, aspect="auto")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=5)
    for axis, layers in ((panel.xaxis, values.shape[1]), (panel.yaxis, values.shape[0])):
        axis.set_ticks(sorted({0, layers - 1}))
    return image


def _sizes(findings: Findings) -> Figure:
    """Draw dissimilarity against the ratio of sizes, with seeds at 0; one column per measure, then relative to null."""
    rows = [(control, scale) for control in findings.controls for scale in ("dissimilarity", "relative")]
    figure, axes = _grid(len(rows), len(findings.measures), 2.2, 1.6, sharex=True)
    for row, (control, scale) in enumerate(rows):
        for column, measure in enumerate(findings.measures):
            panel: Axes = axes[row, column]
            for place, between in enumerate(findings.between):
                value = between.values[control, measure, scale, "all"]
                error = None if math.isnan(value.low) else [[value.mean - value.low], [value.high - value.mean]]
                # Pairs of sizes with the same ratio side by side.
                x = between.doublings + 0.05 * (place % 5 - 2)
                style: Any = {"marker": "o", "markersize": 3, "linewidth": 0.9, "color": COLORS[between.kind]}
                panel.errorbar([x], [value.mean], error, **style)
            level = findings.null[control, measure] if scale == "dissimilarity" else 1.0
            if math.isfinite(level):
                panel.axhline(level, color="0.5", linewidth=0.7, linestyle=(0, (4, 3)))
                corner: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": 6}
                panel.annotate("null", (1, level), **corner)
            panel.set_ylim(bottom=0)
            if row == 0:
                panel.set_title(dissimilarity_title(measure))
            if row == len(rows) - 1:
                panel.set_xlabel("doublings of the blocks' parameters")
            if column == 0:
                words = "dissimilarity" if scale == "dissimilarity" else "1 - calibrated"
                panel.set_ylabel(f"{words}\n{control}")
    _legend(figure, findings)
    write_coverage(figure, SEEDS)
    return figure


def _regions(findings: Findings) -> Figure:
    """Draw the dissimilarity in the first, middle and last block, between sizes and between the seeds of one size."""
    figure, axes = _grid(len(findings.controls), len(findings.measures), 2.2, 1.7)
    for row, control in enumerate(findings.controls):
        for column, measure in enumerate(findings.measures):
            panel: Axes = axes[row, column]
            for place, region in enumerate(REGIONS):
                key = (control, measure, "dissimilarity", region)
                for number, (kind, color) in enumerate(COLORS.items()):
                    values = [between.values[key].mean for between in findings.between if between.kind == kind]
                    values = [value for value in values if math.isfinite(value)]
                    if values:
                        x = place + 0.18 * (number - 1.5)
                        panel.plot([x] * len(values), values, "o", markersize=2.5, color=color, alpha=0.45)
                        panel.plot([x - 0.07, x + 0.07], [np.mean(values)] * 2, color=color, linewidth=1.6)
            panel.set_xticks(range(len(REGIONS)), REGIONS)
            panel.set_ylim(bottom=0)
            if row == 0:
                panel.set_title(dissimilarity_title(measure))
            if column == 0:
                panel.set_ylabel(f"dissimilarity\n{control}")
    _legend(figure, findings)
    return figure


def _losses(findings: Findings) -> Figure:
    """Draw the loss of every model against its size, and dissimilarity against the gap between losses."""
    figure, axes = _grid(1, 2, 2.9, 2.1)
    left, right = axes[0]
    highest = {}
    for name, members in findings.sizes.items():
        parameters, losses = [model.parameters for model in members], [model.loss for model in members]
        left.plot(parameters, losses, "o", markersize=3, color="0.3")
        if math.isfinite(max(losses)):
            highest[name] = parameters[0], max(losses)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.margins(0.12, 0.15)
    left.set_xlabel("approximate parameter count of the blocks")
    left.set_ylabel("loss, nats/token")
    mean = {name: float(np.mean([model.loss for model in members])) for name, members in findings.sizes.items()}
    key = (findings.controls[0], findings.measures[0], "dissimilarity", "all")
    for between in findings.between:
        gap = abs(mean[between.sizes[0]] - mean[between.sizes[1]])
        right.plot([gap], [between.values[key].mean], "o", markersize=3, color=COLORS[between.kind])
    right.set_ylim(bottom=0)
    right.set_xlabel("gap between the losses, nats/token")
    right.set_ylabel(dissimilarity_title(findings.measures[0]))
    _legend(figure, findings)
    name_points(figure, left, highest)
    return figure


def name_points(figure: Figure, panel: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points of a finished figure, none of them over another."""
    if not points:
        return
    figure.draw_without_rendering()
    box = np.divide(panel.bbox.size, figure.dpi)
    inches = (panel.transData.transform(np.array(list(points.values()))) - panel.bbox.p0) / figure.dpi
    sizes = np.array([(widest([name], 5.5) + 0.02, 0.09) for name in points])
    for name, (x, y) in zip(points, place_labels(inches, sizes, box) / box, strict=True):
        if math.isfinite(x):
            panel.text(x, y, name, transform=panel.transAxes, ha="center", va="center", fontsize=5.5)


def _grid(rows: int, columns: int, width: float, height: float, **share: Any) -> tuple[Figure, Any]:
    figure = PaperFigure(figsize=(1.5 + width * columns, 0.5 + height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _legend(figure: Figure, findings: Findings) -> None:
    present = {between.kind for between in findings.between}
    kinds = [kind for kind in LEGEND if kind in present]
    handles = [Line2D([], [], marker="o", markersize=3, linewidth=0, color=COLORS[kind]) for kind in kinds]
    figure.legend(handles, [LEGEND[kind] for kind in kinds], loc="outside right upper", frameon=False)
