"""The figures of the study `asymmetry`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dissimilarity.figures.style import STYLE
from studies.asymmetry.numbers import (
    KINSHIPS,
    READINGS,
    WAYS,
    Row,
    at_equal_losses,
    bootstrap,
    both_ways,
    layer_of,
    mean_interval,
    of_main,
    select,
)

FITS = {
    "paper": ("loss_stitched", "paper's way\nraw loss"),
    "task": ("penalty", "trained\npenalty"),
    "direct": ("penalty", "direct\npenalty"),
}
COLORS = ("#3b528b", "#d1495b", "#edae49", "#2a9d8f")


def figures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure by file name."""
    made = {}
    with mpl.rc_context(STYLE):
        made["stitches"] = _stitches(found)
        made["asymmetry"] = _asymmetry(found)
        if len({row["step"] for row in of_main(found["rows"], "direct")}) > 1:
            made["over_training"] = _over_training(found)
        if found["capacity"]:
            made["capacity"] = _capacity(found)
    return made


def _stitches(found: Mapping[str, Any]) -> Figure:
    """What each of the four kinds of pair costs, by layer, with intervals over pairs of models."""
    rows, families = select(found["rows"], last=True), found["families"]
    shapes = sorted({(row["width_back"], row["depth"]) for row in of_main(rows, "task")})
    kinds = [(a, b) for a in families for b in families]
    figure, axes = _grid(len(FITS), len(shapes) * len(KINSHIPS), sharey="row")
    for line, (fit, (reading, label)) in enumerate(FITS.items()):
        for column, (shape, kinship) in enumerate((shape, kinship) for shape in shapes for kinship in KINSHIPS):
            panel = axes[line][column]
            chosen = [row for row in of_main(rows, fit) if (row["width_back"], row["depth"]) == shape]
            for number, kind in enumerate(kinds):
                within = "self" if kinship == "sibling" and kind[0] == kind[1] else kinship
                pairs = [r for r in select(chosen, kinship=within) if (r["family_front"], r["family_back"]) == kind]
                _layers(panel, pairs, reading, f"{kind[0]} -> {kind[1]}", COLORS[number], 0.06 * (number - 1.5))
            panel.set_xticks(range(shape[1]))
            panel.set_xlim(-0.5, shape[1] - 0.5)
            if line == 0:
                panel.set_title(
                    f"width {shape[0]}, depth {shape[1]}\n{kinship if kinship == 'independent' else 'siblings, self'}"
                )
            if column == 0:
                panel.set_ylabel(f"{label}, nats/token")
            panel.set_xlabel("layer" if line == len(FITS) - 1 else "")
    _legend(figure, axes[0][0])
    return figure


def _layers(panel: Axes, rows: Sequence[Row], reading: str, label: str, color: str, shift: float) -> None:
    by_layer: dict[int, list[float]] = {}
    for row in rows:
        by_layer.setdefault(layer_of(row["site"]), []).append(row[reading])
    layers = sorted(by_layer)
    means = [mean_interval(by_layer[layer]) for layer in layers]
    _curve(panel, [layer + shift for layer in layers], means, color, label)


def _curve(panel: Axes, places: Sequence[float], means: Sequence[tuple[float, float]], color: str, label: str) -> None:
    """Means with half-widths; none is drawn where there is none."""
    errors = [0.0 if math.isnan(half) else half for _, half in means]
    style: Any = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1}
    panel.errorbar(places, [mean for mean, _ in means], errors, label=label, **style)


def _asymmetry(found: Mapping[str, Any]) -> Figure:
    """first -> second minus second -> first by layer, in every reading, with paired bootstrap intervals."""
    rows, families = select(found["rows"], last=True), found["families"]
    shapes = sorted({(row["width_back"], row["depth"]) for row in of_main(rows, "task")})
    figure, axes = _grid(len(WAYS), len(shapes) * len(KINSHIPS), height=1.25, sharey="row")
    for line, (fit, reading) in enumerate(WAYS):
        for column, (shape, kinship) in enumerate((shape, kinship) for shape in shapes for kinship in KINSHIPS):
            panel = axes[line][column]
            panel.axhline(0, color="0.5", linewidth=0.7)
            each = both_ways(of_main(rows, fit), families, kinship, reading)
            here = [one for one in each if one["cell"][:2] == shape]
            for layer in sorted({layer_of(one["cell"][2]) for one in here}):
                values = [one["difference"] for one in here if layer_of(one["cell"][2]) == layer]
                low, high = bootstrap(values)
                mean = sum(values) / len(values)
                panel.errorbar(
                    [layer],
                    [mean],
                    [[mean - low], [high - mean]] if low == low else None,
                    color=COLORS[0],
                    marker="o",
                    markersize=3,
                )
                panel.plot([layer + 0.12] * len(values), values, ".", color="0.6", markersize=3)
            panel.set_xticks(range(shape[1]))
            panel.set_xlim(-0.5, shape[1] - 0.5)
            if line == 0:
                panel.set_title(f"width {shape[0]}, depth {shape[1]}\n{kinship}")
            if column == 0:
                panel.set_ylabel(f"{fit}\n{READINGS[reading]}")
            panel.set_xlabel("layer" if line == len(WAYS) - 1 else "")
    figure.supylabel(f"{families[0]} -> {families[1]} minus {families[1]} -> {families[0]}, nats/token", fontsize=8)
    return figure


def _over_training(found: Mapping[str, Any]) -> Figure:
    """The asymmetry of direct stitches over training, and against the gap of the models' own losses, with a line."""
    rows, families = of_main(found["rows"], "direct"), found["families"]
    figure, axes = _grid(2, len(KINSHIPS), width=2.6)
    for column, kinship in enumerate(KINSHIPS):
        each = both_ways(rows, families, kinship, "penalty")
        top, bottom = axes[0][column], axes[1][column]
        for number, shape in enumerate(sorted({one["cell"][:2] for one in each})):
            here = [one for one in each if one["cell"][:2] == shape]
            steps = sorted({one["step"] for one in here})
            label = f"width {shape[0]}, depth {shape[1]}"
            means = [mean_interval([one["difference"] for one in here if one["step"] == step]) for step in steps]
            color = COLORS[number % len(COLORS)]
            _curve(top, steps, means, color, label)
            bottom.plot(
                [one["gap"] for one in here],
                [one["difference"] for one in here],
                ".",
                color=color,
                markersize=4,
                label=label,
            )
        line = at_equal_losses(each)
        if math.isfinite(line.slope):
            bottom.axline((0, line.mean), slope=line.slope, color="0.5", linewidth=0.7, linestyle=":")
        top.set_xscale("log")
        top.set_xticks(sorted({one["step"] for one in each}))
        top.xaxis.set_major_formatter("{x:,.0f}")
        top.xaxis.set_minor_locator(NullLocator())
        top.set_title(kinship)
        top.set_xlabel("training step")
        bottom.set_xlabel(f"loss of {families[1]} minus loss of {families[0]}, nats/token")
        for panel in (top, bottom):
            panel.axhline(0, color="0.5", linewidth=0.7)
    axes[0][0].set_ylabel("asymmetry of the direct\npenalty, nats/token")
    axes[1][0].set_ylabel("asymmetry of the direct\npenalty, nats/token")
    _legend(figure, axes[0][0])
    return figure


def _capacity(found: Mapping[str, Any]) -> Figure:
    """Penalties with the base family against sparsity and effective rank, a point a model."""
    models, base = found["capacity"], found["families"][1]
    figure, axes = _grid(2, 2, width=2.6, sharey="row", sharex="col")
    for line, (target, label) in enumerate(
        (("into_base", f"penalty into {base}"), ("from_base", f"penalty from {base}"))
    ):
        for column, key in enumerate(("sparsity", "effective_rank")):
            panel = axes[line][column]
            for number, family in enumerate(dict.fromkeys(model["family"] for model in models)):
                chosen = select(models, family=family)
                color = mpl.colormaps["tab10"](number)
                panel.plot(
                    [m[key] for m in chosen], [m[target] for m in chosen], "o", color=color, markersize=4, label=family
                )
            if column == 0:
                panel.set_ylabel(f"{label}\nnats/token")
            if line == 1:
                panel.set_xlabel(key.replace("_", " "))
    _legend(figure, axes[0][0])
    return figure


def _grid(rows: int, columns: int, width: float = 1.7, height: float = 1.7, **share: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(1.6 + width * columns, 0.5 + height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
