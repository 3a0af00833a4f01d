"""The summary of the study `scaling`, written from its numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.inference.coverage import FEWEST_MODELS, SEEDS
from studies.common.format import DASH, interval, interval_in_words, listed, number, plus_minus, table_head, table_row
from studies.common.jackknife import Interval, no_interval
from studies.common.regions import REGIONS
from studies.common.resampling import finite_mean, mean_interval
from studies.scaling.cells import SCALES
from studies.scaling.numbers import Findings
from studies.scaling.sizes import KINDS, Between

DIFFERENCES = {"width": "width alone", "depth": "depth alone", "both": "width and depth"}
GROWTH = {
    "above": "grows with the ratio",
    "below": "falls with the ratio",
    "open": "shows no clear trend with the ratio",
}
ROUNDING = 1e-9
"""Three layers are three blocks without remainder, in a walk as in a model."""
COLUMNS = ("sizes", "differ in", "doublings", "dissimilarity", "more than seeds", "1 - calibrated")


def summary(findings: Findings, notes: Mapping[str, Any]) -> str:
    """Return the summary, one page of Markdown."""
    lines = ["# How differently do models of different size represent text?", "", _answer(findings), ""]
    lines += ["## The models", "", *_models(findings), "", *_methods(findings, notes)]
    lines += ["", "## Sizes compared with seeds", "", *_sizes(findings)]
    lines += ["", "## Growth with the ratio of sizes", "", *_growth(findings)]
    lines += ["", "## Blocks of layers", "", *_blocks(findings), "", *_regions(findings)]
    lines += ["", "## Size or loss?", "", *_loss(findings)]
    if len(findings.controls) > 1:
        lines += ["", "## Outlier control", "", *_control(findings, notes)]
    return "\n".join(lines) + "\n"


def terminal_tables(findings: Findings) -> list[FittedTable]:
    """Return every two sizes by the first measure, without outlier control."""
    control, measure = findings.controls[0], findings.measures[0]
    title = f"{measure}: mean dissimilarity at equal depth [95% interval]"
    table = FittedTable(title, names=COLUMNS[:1], drop=("doublings", "differ in", "1 - calibrated"))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in _size_rows(findings, control, measure):
        table.add_row(*row)
    return [table]


def _size_rows(findings: Findings, control: str, measure: str) -> list[tuple[str, ...]]:
    """Return the cells of `COLUMNS` for every comparison that has a value."""
    key, relative = (control, measure, "dissimilarity", "all"), (control, measure, "relative", "all")
    rows = []
    for between in findings.between:
        if math.isfinite(between.values[key].mean):
            excess = interval(between.excess[key]) if key in between.excess else ""
            values = (_plain(between.values[key]), excess, _plain(between.values[relative]))
            rows.append((_name(between), between.kind, f"{between.doublings:.1f}", *values))
    return rows


def _answer(findings: Findings) -> str:
    """Return the first paragraph: whether sizes differ more than seeds by the primary measure, and how that grows."""
    control, measure = findings.controls[0], findings.measures[0]
    key = (control, measure, "dissimilarity", findings.region)
    different = [between for between in findings.between if between.kind != "seed"]
    tested = [between.excess[key] for between in different if key in between.excess]
    if not different:
        return "All models have the same size: there is nothing to compare."
    farthest = max(different, key=lambda between: _or(between.values[key].mean, -math.inf))
    null = number(findings.null[control, measure], sign=False)
    where = "at equal depth" if findings.region == "all" else f"in the {findings.region} block"
    sentences = [
        f"By {measure}, the sizes that differ most are {_name(farthest)}: mean dissimilarity {where} "
        f"{_in_words(farthest.values[key])}; 0 = the same, {null} = as different as the null."
    ]
    if tested:
        mean = float(np.mean([excess.mean for excess in tested]))
        sentences.append(f"On average, two sizes lack {number(mean)} of the similarity of seeds of the same sizes.")
        with_interval = [excess for excess in tested if math.isfinite(excess.p)]
        sentences.append(
            f"That is above 0 in {len(findings.above)} of {len(tested)} pairs of sizes (false discovery rate 5%)."
            if with_interval
            else f"Whether that is more than chance is open ({no_interval(min(excess.models for excess in tested))})."
        )
    else:
        sentences.append(
            "There is one model per size, so the effect of the seed alone is unknown; list several seeds per size to "
            "measure it."
        )
    for kind in KINDS:
        slope = findings.growth[control, measure, "dissimilarity", kind]
        if math.isfinite(slope.mean):
            words = GROWTH[slope.verdict] if math.isfinite(slope.p) else "has no verdict"
            sentences.append(
                f"For {DIFFERENCES[kind]} the excess {words}: {number(slope.mean)} for each doubling "
                f"of the blocks' parameters ({interval_in_words(slope)})."
            )
    others = [*findings.measures[1:], *(["the comparison under outlier control"] if len(findings.controls) > 1 else [])]
    if others:
        sentences.append(f"{measure} is the primary measure; {listed(others)} and single layers are exploratory.")
    return " ".join(sentences)


def _models(findings: Findings) -> list[str]:
    parameters = "approximate parameter count of the blocks"
    lines = table_head("size", "family", "width", "depth", parameters, "models", "loss, nats/token")
    for name, members in findings.sizes.items():
        mean, half = mean_interval([model.loss for model in members])
        loss = plus_minus(mean, half) if math.isfinite(mean) else DASH
        first = members[0]
        shape = (first.family, str(first.width), str(first.depth), f"{first.parameters:,}")
        lines.append(table_row(name, *shape, str(len(members)), loss))
    return lines


def _methods(findings: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe = notes["probe"]
    lines = [
        f"Losses are on the text of the comparison, {probe['sequences']} sequences of {probe['length']} tokens from "
        f"the {probe['split']} split, with 95% half-widths over seeds. Layers are compared at equal relative depth "
        "unless a region is named. `more than seeds` is the share of the similarity between seeds that two sizes lack: "
        "1 - s(a, b) / sqrt(s(a, a) s(b, b)), where s is 1 - dissimilarity (or `calibrated`) and seeds of one size are "
        "the floors. A narrow model shows less of a common representation, to seeds of its size too; the floors take "
        "that out, exactly for cosines such as CKA. Intervals are over models: "
        f"each model is left out in turn (jackknife, Student's t), because pairs share models. {SEEDS} Fewer than "
        f"{FEWEST_MODELS} models per size have no interval and no verdict. `1 - calibrated` is 0 = the same, 1 = as "
        "different as the null.",
    ]
    if findings.same_data_order:
        lines.append(
            "Models of two sizes that read their text in the same order count as pairs, because some sizes have no "
            "others."
        )
    return lines


def _sizes(findings: Findings) -> list[str]:
    lines = []
    control = findings.controls[0]
    for measure in findings.measures:
        null = number(findings.null[control, measure], sign=False)
        lines += [f"### {measure} (null {null})", "", *table_head(*COLUMNS)]
        lines += [table_row(*row) for row in _size_rows(findings, control, measure)]
        lines.append("")
    return lines[:-1]


def _growth(findings: Findings) -> list[str]:
    rows = []
    for measure in findings.measures:
        for control in findings.controls:
            for scale, words in SCALES.items():
                slopes = [findings.growth[control, measure, scale, kind] for kind in KINDS]
                if any(math.isfinite(slope.mean) for slope in slopes):
                    rows.append(table_row(measure, control, words, *map(interval, slopes)))
    if not rows:
        return ["Without a floor, or with one size only, there is no excess."]
    return [
        "Excess over the seeds for each doubling of the blocks' parameters: least squares through 0 over pairs of "
        "sizes.",
        "",
        *table_head("measure", "control", "reading", *(DIFFERENCES[kind] for kind in KINDS)),
        *rows,
    ]


def _blocks(findings: Findings) -> list[str]:
    lines = [
        "The first, middle and last blocks are runs of layers that are similar to each other in the heat map of a "
        f"model with itself, by {findings.measures[0]} and averaged over seeds. They are the exact best cut into three "
        "(kernel change-point detection). Any layers can be cut: a random walk, in which each layer adds something "
        "independent, has no blocks, and the cut explains that much of it. Blocks are there if the cut explains more "
        "than in 95% of walks. The second table averages the dissimilarity over each region.",
        "",
        *table_head(
            "size", *REGIONS, "share of the scatter explained by the cut", "random walk: median, 95%", "blocks"
        ),
    ]
    for name, blocks in findings.blocks.items():
        cells = [_layers(blocks[region]) if region in blocks else DASH for region in REGIONS]
        share, (median, high) = findings.shares[name], findings.walks[name]
        verdict = "more than a walk" if share > high + ROUNDING else "as in a walk"
        verdict = verdict if len(blocks) == len(REGIONS) else DASH
        lines.append(table_row(name, *cells, f"{share:.0%}", f"{median:.0%}, {high:.0%}", verdict))
    return lines


def _regions(findings: Findings) -> list[str]:
    control, first = findings.controls[0], findings.measures[0]
    lines = table_head("measure", "region", "between seeds", "between sizes", "more than seeds")
    excesses = {}
    for measure in findings.measures:
        for region in REGIONS:
            key = (control, measure, "dissimilarity", region)
            seeds, sizes = (
                finite_mean(
                    [between.values[key].mean for between in findings.between if (between.kind == "seed") is kind]
                )
                for kind in (True, False)
            )
            excess = finite_mean([between.excess[key].mean for between in findings.between if key in between.excess])
            excesses[measure, region] = excess
            cells = (number(seeds, sign=False), number(sizes, sign=False), number(excess))
            lines.append(table_row(measure, region, *cells))
    finite = {region: excesses[first, region] for region in REGIONS if math.isfinite(excesses[first, region])}
    if len(finite) > 1:
        most, least = (choose(finite, key=lambda region: finite[region]) for choose in (max, min))
        lines += [
            "",
            f"By {first}, size matters most in the {most} block ({number(finite[most])} more than seeds) and least in "
            f"the {least} block ({number(finite[least])}).",
        ]
    return lines


def _loss(findings: Findings) -> list[str]:
    rows = []
    for measure in findings.measures:
        for control in findings.controls:
            correlations = [findings.with_ratio[control, measure], findings.with_loss[control, measure]]
            if any(math.isfinite(correlation) for correlation in correlations):
                rows.append(table_row(measure, control, *(number(correlation, 2) for correlation in correlations)))
    if not rows:
        return ["There are too few pairs of sizes with a floor for a correlation."]
    return [
        "Rank correlation over pairs of sizes between the excess and the ratio of sizes, or the gap between the "
        "losses. If both are equally high, these models cannot tell the two apart. Pairs share sizes, so there is no "
        "p value.",
        "",
        *table_head("measure", "control", "with the ratio", "with the gap between losses"),
        *rows,
    ]


def _control(findings: Findings, notes: Mapping[str, Any]) -> list[str]:
    plain, controlled = findings.controls
    keys = ", ".join(f"{key}={value}" for key, value in notes["controls"][controlled].items())
    columns = [
        f"{kind}, {control}" for kind in ("between seeds", "between sizes", "null") for control in (plain, controlled)
    ]
    lines = [
        f"The same comparison with {keys}. Shared tokens of massive norm make models look similar.",
        "",
        *table_head("measure", *columns),
    ]
    for measure in findings.measures:
        means = []
        for kinds in (("seed",), KINDS):
            for control in findings.controls:
                key = (control, measure, "dissimilarity", "all")
                means.append(
                    finite_mean([between.values[key].mean for between in findings.between if between.kind in kinds])
                )
        means += [findings.null[control, measure] for control in findings.controls]
        lines.append(table_row(measure, *(number(mean, sign=False) for mean in means)))
    return lines


def _name(between: Between) -> str:
    return between.sizes[0] if between.kind == "seed" else " and ".join(between.sizes)


def _layers(layers: range) -> str:
    return str(layers.start) if len(layers) == 1 else f"{layers.start}-{layers.stop - 1}"


def _in_words(value: Interval) -> str:
    mean, low, high = (number(part, sign=False) for part in (value.mean, value.low, value.high))
    return f"{mean} (95% interval {low} to {high})" if math.isfinite(value.low) else mean


def _plain(value: Interval) -> str:
    return interval(value, sign=False)


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
