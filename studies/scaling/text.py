"""What the study `scaling` found, in words that the numbers write."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from studies.asymmetry.numbers import mean_interval
from studies.common.format import number, span
from studies.common.regions import REGIONS
from studies.scaling.numbers import KINDS, SCALES, Between, Findings, Interval

ALONE = {"width": "width alone", "depth": "depth alone", "both": "width and depth", "seed": "seeds of one size"}
GROWS = {
    "above": "grows with the ratio",
    "below": "falls with the ratio",
    "open": "does not clearly move with the ratio",
}


def summary(found: Findings, notes: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    lines = ["# How differently do models of different size represent text?", "", _answer(found), ""]
    lines += ["## The models", "", *_models(found), "", *_means(found, notes)]
    lines += ["", "## Sizes against seeds", "", *_sizes(found)]
    lines += ["", "## As the ratio of sizes grows", "", *_growth(found)]
    lines += ["", "## Blocks of layers", "", *_blocks(found)]
    lines += ["", "## With the loss", "", *_loss(found)]
    if len(found.controls) > 1:
        lines += ["", "## Outlier control", "", *_control(found, notes)]
    return "\n".join(lines) + "\n"


def terminal_tables(found: Findings) -> list[Table]:
    """Every two sizes by the first measure, as it is."""
    key = (found.controls[0], found.measures[0], "dissimilarity", "all")
    table = Table(title=f"{found.measures[0]}: mean dissimilarity at equal depth [95 % interval]", title_justify="left")
    for column in ("sizes", "differ in", "doublings", "dissimilarity", "more than seeds", "1 - calibrated"):
        table.add_column(column, justify="left" if column in ("sizes", "differ in") else "right")
    for one in found.between:
        far = one.values[key[0], key[1], "far", "all"]
        if math.isfinite(one.values[key].mean):
            excess = _interval(one.excess[key], True) if key in one.excess else ""
            table.add_row(
                _named(one), one.kind, f"{one.doublings:.1f}", _interval(one.values[key]), excess, _interval(far)
            )
    return [table]


def _answer(found: Findings) -> str:
    """The first paragraph: by the first measure, whether sizes differ by more than seeds, and how that grows."""
    control, measure = found.controls[0], found.measures[0]
    key = (control, measure, "dissimilarity", "all")
    apart = [one for one in found.between if one.kind != "seed"]
    tested = [one for one in apart if key in one.excess]
    if not apart:
        return "All models are of one size: there is nothing to compare."
    farthest = max(apart, key=lambda one: _or(one.values[key].mean, -math.inf))
    parts = [
        f"By {measure}, the sizes that differ most are {_named(farthest)}: mean dissimilarity at equal depth "
        f"{_value(farthest.values[key])}; 0 = the same, {number(found.null[control, measure], sign=False)} = as far as "
        "the null."
    ]
    if tested:
        above = sum(one.excess[key].verdict == "above" for one in tested)
        means = np.mean([one.excess[key].mean for one in tested])
        parts.append(
            f"In {above} of {len(tested)} pairs of sizes the dissimilarity is above that between seeds of the same "
            f"sizes (95 % interval of the difference above 0); on average by {number(float(means))}."
        )
    else:
        parts.append(
            "There is one model of each size, so what seeds alone would do is not known; give several seeds of a size "
            "for a floor."
        )
    for kind in KINDS:
        slope = found.growth[control, measure, "dissimilarity", kind]
        if math.isfinite(slope.mean):
            parts.append(
                f"For {ALONE[kind]} the excess {GROWS[slope.verdict]}: {number(slope.mean)} for each doubling of the "
                f"blocks' parameters ({span(slope)})."
            )
    return " ".join(parts)


def _models(found: Findings) -> list[str]:
    lines = [
        "| size | family | width | depth | parameters of the blocks, about | models | loss, nats/token |",
        "| --- " * 7 + "|",
    ]
    for name, members in found.sizes.items():
        mean, half = mean_interval([model.loss for model in members])
        loss = f"{mean:.3f} ± {half:.3f}" if math.isfinite(half) else number(mean, sign=False)
        one = members[0]
        lines.append(
            f"| {name} | {one.family} | {one.width} | {one.depth} | {one.parameters:,} | {len(members)} | {loss} |"
        )
    return lines


def _means(found: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe = notes["probe"]
    several = max(len(members) for members in found.sizes.values())
    lines = [
        f"Losses are on the text of the comparison, {probe['sequences']} sequences of {probe['length']} tokens of the "
        f"{probe['split']} split, with 95 % half-widths over seeds. Layers are compared at equal relative depth unless "
        "a region is named. `more than seeds` is the dissimilarity between two sizes less the mean of that between the "
        "seeds of each (the floor). Intervals are bootstraps over models: models are drawn, not pairs, since pairs "
        f"share models; with {several} models of a size they are too narrow. `1 - calibrated` is 0 = the same, 1 = as "
        "far as the null.",
    ]
    if found.akin:
        lines.append(
            "Models of two sizes that read their text in the same order count as pairs, for there are no others."
        )
    return lines


def _sizes(found: Findings) -> list[str]:
    lines = []
    control = found.controls[0]
    for measure in found.measures:
        key, far = (control, measure, "dissimilarity", "all"), (control, measure, "far", "all")
        lines += [
            f"### {measure} (null {number(found.null[control, measure], sign=False)})",
            "",
            "| sizes | differ in | doublings | dissimilarity | more than seeds | 1 - calibrated |",
            "| --- " * 6 + "|",
        ]
        for one in found.between:
            if math.isfinite(one.values[key].mean):
                excess = _interval(one.excess[key], True) if key in one.excess else ""
                cells = (_interval(one.values[key]), excess, _interval(one.values[far]))
                lines.append(f"| {_named(one)} | {one.kind} | {one.doublings:.1f} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def _growth(found: Findings) -> list[str]:
    lines = [
        "Excess over the seeds for each doubling of the blocks' parameters: least squares through 0 over pairs of "
        "sizes.",
        "",
        "| measure | control | reading | " + " | ".join(ALONE[kind] for kind in KINDS) + " |",
        "| --- " * (3 + len(KINDS)) + "|",
    ]
    for measure in found.measures:
        for control in found.controls:
            for scale, words in SCALES.items():
                slopes = [found.growth[control, measure, scale, kind] for kind in KINDS]
                if any(math.isfinite(slope.mean) for slope in slopes):
                    cells = " | ".join(_interval(slope, True) for slope in slopes)
                    lines.append(f"| {measure} | {control} | {words} | {cells} |")
    return lines if len(lines) > 4 else ["Without a floor, or without two sizes, there is no excess."]


def _blocks(found: Findings) -> list[str]:
    control, measure = found.controls[0], found.measures[0]
    lines = [
        f"First, middle and last block are runs of layers that are alike inside by {measure} in the heat map of a "
        "model with itself, mean over seeds: the exact best cut into three (kernel change points). Below it, means of "
        "the dissimilarity in each region.",
        "",
        "| size | first | middle | last | share of the scatter that the cut explains |",
        "| --- " * 5 + "|",
    ]
    for name, blocks in found.blocks.items():
        cells = [_layers(blocks[region]) if region in blocks else "–" for region in REGIONS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {found.shares[name]:.0%} |")
    lines += ["", "| measure | region | between seeds | between sizes | more than seeds |", "| --- " * 5 + "|"]
    for name in found.measures:
        for region in REGIONS:
            key = (control, name, "dissimilarity", region)
            seeds = _mean([one.values[key].mean for one in found.between if one.kind == "seed"])
            sizes = _mean([one.values[key].mean for one in found.between if one.kind != "seed"])
            excess = _mean([one.excess[key].mean for one in found.between if key in one.excess])
            cells = (number(seeds, sign=False), number(sizes, sign=False), number(excess))
            lines.append(f"| {name} | {region} | " + " | ".join(cells) + " |")
    apart = {
        region: _mean(
            [
                one.excess[control, measure, "dissimilarity", region].mean
                for one in found.between
                if (control, measure, "dissimilarity", region) in one.excess
            ]
        )
        for region in REGIONS
    }
    known = {region: value for region, value in apart.items() if math.isfinite(value)}
    if len(known) > 1:
        most, least = max(known, key=lambda region: known[region]), min(known, key=lambda region: known[region])
        lines += [
            "",
            f"By {measure}, size shows most in the {most} block ({number(known[most])} more than seeds) and least in "
            f"the {least} block ({number(known[least])}).",
        ]
    return lines


def _loss(found: Findings) -> list[str]:
    lines = [
        "Rank correlation over pairs of sizes of the mean dissimilarity with the ratio of sizes, and with the gap "
        "between the losses; where both are as high, the two cannot be told apart by these models.",
        "",
        "| measure | control | with the ratio | with the gap of losses |",
        "| --- " * 4 + "|",
    ]
    for measure in found.measures:
        for control in found.controls:
            cells = [found.with_ratio[control, measure], found.with_loss[control, measure]]
            if any(math.isfinite(each.mean) for each in cells):
                lines.append(
                    f"| {measure} | {control} | " + " | ".join(_interval(each, True, 2) for each in cells) + " |"
                )
    return lines if len(lines) > 4 else ["There are too few pairs of sizes for a correlation."]


def _control(found: Findings, notes: Mapping[str, Any]) -> list[str]:
    plain, other = found.controls
    said = ", ".join(f"{key}={value}" for key, value in notes["controls"][other].items())
    lines = [
        f"The same with {said}. A few tokens of massive norm that models share would make them look alike.",
        "",
        f"| measure | between seeds, {plain} | {other} | between sizes, {plain} | {other} | null, {plain} | {other} |",
        "| --- " * 7 + "|",
    ]
    for measure in found.measures:
        cells = []
        for kinds in (("seed",), KINDS):
            for control in found.controls:
                key = (control, measure, "dissimilarity", "all")
                cells.append(_mean([one.values[key].mean for one in found.between if one.kind in kinds]))
        cells += [found.null[control, measure] for control in found.controls]
        lines.append(f"| {measure} | " + " | ".join(number(cell, sign=False) for cell in cells) + " |")
    return lines


def _named(one: Between) -> str:
    return one.sizes[0] if one.kind == "seed" else " and ".join(one.sizes)


def _layers(layers: range) -> str:
    return str(layers.start) if len(layers) == 1 else f"{layers.start}-{layers.stop - 1}"


def _value(found: Interval) -> str:
    if not math.isfinite(found.low):
        return number(found.mean, sign=False)
    low, high = (number(end, sign=False) for end in (found.low, found.high))
    return f"{number(found.mean, sign=False)} (95 % interval {low} to {high})"


def _interval(found: Interval, sign: bool = False, digits: int = 3) -> str:
    if not math.isfinite(found.low):
        return number(found.mean, digits, sign)
    return f"{number(found.mean, digits, sign)} [{number(found.low, digits, sign)}, {number(found.high, digits, sign)}]"


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
