"""Figures of the study `asymmetry`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dissimilarity.figures.figure import PaperFigure, in_style
from dissimilarity.figures.layout import write_coverage
from dissimilarity.figures.style import GROUP_COLORS, name_layers
from dissimilarity.inference.coverage import SEEDS
from studies.asymmetry.differences import Term, difference
from studies.asymmetry.numbers import (
    CRITERIA,
    KINSHIPS,
    READINGS,
    Record,
    at_equal_losses,
    cell_of,
    layer_of,
    paired_differences,
    same_shape,
    select,
    terms_of,
    units_of,
)
from studies.common.jackknife import Interval

FITS = {
    "paper": ("loss_stitched", "paper's recipe\nraw loss"),
    "task": ("penalty", "trained\npenalty"),
    "direct": ("penalty", "direct\npenalty"),
}
Shape = tuple[int, int]


def figures(findings: Mapping[str, Any]) -> dict[str, Figure]:
    """Return every figure by file name."""
    drawn = {}
    with in_style():
        drawn["stitches"] = _stitches(findings)
        drawn["asymmetry"] = _asymmetry(findings)
        if len({record["step"] for record in same_shape(findings["records"], "direct")}) > 1:
            drawn["over_training"] = _over_training(findings)
        if findings["capacity"]:
            drawn["capacity"] = _capacity(findings)
    return drawn


def _shapes(records: Sequence[Record]) -> list[Shape]:
    return sorted({(record["width_back"], record["depth"]) for record in same_shape(records, "task")})


def _columns(shapes: Sequence[Shape]) -> Iterator[tuple[int, Shape, str]]:
    """Yield the column, shape and kinship of each panel of a row."""
    for column, (shape, kinship) in enumerate((shape, kinship) for shape in shapes for kinship in KINSHIPS):
        yield column, shape, kinship


def _stitches(findings: Mapping[str, Any]) -> Figure:
    """Draw the cost of each of the four kinds of pair by layer, with intervals over models."""
    records, families = select(findings["records"], last=True), findings["families"]
    shapes = _shapes(records)
    kinds = [(front, back) for front in families for back in families]
    figure, axes = _grid(len(FITS), len(shapes) * len(KINSHIPS), sharey="row")
    for row, (fit, (reading, label)) in enumerate(FITS.items()):
        for column, shape, kinship in _columns(shapes):
            panel = axes[row][column]
            in_panel = [record for record in same_shape(records, fit) if _shape_of(record) == shape]
            for number, kind in enumerate(kinds):
                within = "self" if kinship == "sibling" and kind[0] == kind[1] else kinship
                pairs = [
                    record
                    for record in select(in_panel, kinship=within)
                    if (record["family_front"], record["family_back"]) == kind
                ]
                offset = 0.06 * (number - 1.5)
                _layers(panel, pairs, reading, f"{kind[0]} -> {kind[1]}", GROUP_COLORS[number], offset)
            _layer_axis(panel, shape, row == len(FITS) - 1)
            if row == 0:
                pairs_of = kinship if kinship == "independent" else "siblings, self"
                panel.set_title(f"width {shape[0]}, depth {shape[1]}\n{pairs_of}")
            if column == 0:
                panel.set_ylabel(f"{label}, nats/token")
    _legend(figure, axes[0][0])
    write_coverage(figure, SEEDS)
    return figure


def _shape_of(record: Record) -> Shape:
    return record["width_back"], record["depth"]


def _layers(panel: Axes, records: Sequence[Record], reading: str, label: str, color: str, offset: float) -> None:
    by_layer: dict[int, list[Term]] = {}
    for record in records:
        term = Term(units_of(record), cell_of(record), record[reading])
        by_layer.setdefault(layer_of(record["site"]), []).append(term)
    layers = sorted(by_layer)
    means = [difference(by_layer[layer]) for layer in layers]
    _curve(panel, [layer + offset for layer in layers], means, color, label)


def _layer_axis(panel: Axes, shape: Shape, is_labeled: bool) -> None:
    name_layers(panel.xaxis, [str(layer) for layer in range(shape[1])])
    panel.set_xlim(-0.5, shape[1] - 0.5)
    panel.set_xlabel("layer" if is_labeled else "")


def _curve(panel: Axes, x: Sequence[float], means: Sequence[Interval], color: str, label: str) -> None:
    """Draw means with their intervals, where these are defined."""
    style: Any = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1}
    panel.errorbar(x, [mean.mean for mean in means], [_half(mean) for mean in means], label=label, **style)


def _half(estimate: Interval) -> float:
    return 0.0 if math.isnan(estimate.high) else estimate.high - estimate.mean


def _asymmetry(findings: Mapping[str, Any]) -> Figure:
    """Draw first -> second minus second -> first by layer, for every criterion, with intervals over models."""
    records, families = select(findings["records"], last=True), findings["families"]
    shapes = _shapes(records)
    figure, axes = _grid(len(CRITERIA), len(shapes) * len(KINSHIPS), height=1.25, sharey="row")
    for row, (fit, reading) in enumerate(CRITERIA):
        for column, shape, kinship in _columns(shapes):
            panel = axes[row][column]
            panel.axhline(0, color="0.5", linewidth=0.7)
            differences = paired_differences(same_shape(records, fit), families, kinship, reading)
            _differences(panel, [record for record in differences if record["cell"][:2] == shape])
            _layer_axis(panel, shape, row == len(CRITERIA) - 1)
            if row == 0:
                panel.set_title(f"width {shape[0]}, depth {shape[1]}\n{kinship}")
            if column == 0:
                panel.set_ylabel(f"{fit}\n{READINGS[reading]}")
    figure.supylabel(f"{families[0]} -> {families[1]} minus {families[1]} -> {families[0]}, nats/token", fontsize=8)
    write_coverage(figure, SEEDS)
    return figure


def _differences(panel: Axes, differences: Sequence[Record]) -> None:
    """Draw the mean difference per layer, and each pair of models beside it."""
    for layer in sorted({layer_of(record["cell"][2]) for record in differences}):
        terms = terms_of([record for record in differences if layer_of(record["cell"][2]) == layer])
        _curve(panel, [layer], [difference(terms)], GROUP_COLORS[0], "")
        values = [term.value for term in terms]
        panel.plot([layer + 0.12] * len(values), values, ".", color="0.6", markersize=3)


def _over_training(findings: Mapping[str, Any]) -> Figure:
    """Draw the asymmetry of direct stitches over training, and over the gap between the models' own losses."""
    records, families = same_shape(findings["records"], "direct"), findings["families"]
    figure, axes = _grid(2, len(KINSHIPS), width=2.6)
    for column, kinship in enumerate(KINSHIPS):
        differences = paired_differences(records, families, kinship, "penalty")
        top, bottom = axes[0][column], axes[1][column]
        for number, shape in enumerate(sorted({record["cell"][:2] for record in differences})):
            members = [record for record in differences if record["cell"][:2] == shape]
            steps = sorted({record["step"] for record in members})
            means = [difference(terms_of(select(members, step=step))) for step in steps]
            color, label = GROUP_COLORS[number % len(GROUP_COLORS)], f"width {shape[0]}, depth {shape[1]}"
            _curve(top, steps, means, color, label)
            gaps, values = ([record[key] for record in members] for key in ("gap", "difference"))
            bottom.plot(gaps, values, ".", color=color, markersize=4, label=label)
        line = at_equal_losses(differences)
        if math.isfinite(line.mean):
            style: Any = {"color": "0.2", "marker": "D", "markersize": 4, "capsize": 2}
            bottom.errorbar([0], [line.mean], [_half(line)], label="at equal losses", **style)
        top.set_xscale("log")
        top.set_xticks(sorted({record["step"] for record in differences}))
        top.xaxis.set_major_formatter("{x:,.0f}")
        top.xaxis.set_minor_locator(NullLocator())
        top.set_title(kinship)
        top.set_xlabel("training step")
        bottom.set_xlabel(f"loss of {families[1]} minus loss of {families[0]}, nats/token")
        for panel in (top, bottom):
            panel.axhline(0, color="0.5", linewidth=0.7)
    for row in axes:
        row[0].set_ylabel("asymmetry of the direct\npenalty, nats/token")
    _legend(figure, axes[0][0])
    write_coverage(figure, SEEDS)
    return figure


def _capacity(findings: Mapping[str, Any]) -> Figure:
    """Draw penalties with the base family against sparsity and effective rank, one point per model."""
    models, base = findings["capacity"], findings["families"][1]
    figure, axes = _grid(2, 2, width=2.6, sharey="row", sharex="col")
    targets = (("into_base", f"penalty into {base}"), ("from_base", f"penalty from {base}"))
    for row, (target, label) in enumerate(targets):
        for column, key in enumerate(("sparsity", "effective_rank")):
            panel = axes[row][column]
            for number, family in enumerate(dict.fromkeys(model["family"] for model in models)):
                members = select(models, family=family)
                x, y = ([model[name] for model in members] for name in (key, target))
                panel.plot(x, y, "o", color=GROUP_COLORS[number % len(GROUP_COLORS)], markersize=4, label=family)
            if column == 0:
                panel.set_ylabel(f"{label}\nnats/token")
            if row == 1:
                panel.set_xlabel(key.replace("_", " "))
    _legend(figure, axes[0][0])
    return figure


def _grid(rows: int, columns: int, width: float = 1.7, height: float = 1.7, **share: Any) -> tuple[Figure, Any]:
    figure = PaperFigure(figsize=(1.6 + width * columns, 0.5 + height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
