"""What the study `generalization` found, in words that the numbers write."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from studies.common.format import number
from studies.generalization.agreement import STATISTICS, Agreement
from studies.generalization.numbers import ALL, QUICK, Findings, Found, gap_of_two
from studies.generalization.parting import Parting

ENOUGH = 8
"""Models of which two halves are one of 35, so that a permuted one is the true one less than once in twenty."""


def summary(found: Findings, notes: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    lines = ["# Which models will fail elsewhere, seen from in-distribution inputs alone?", "", answer(found), ""]
    lines += ["## The models", "", *_models(found)]
    lines += ["", "## Groups by each measure", "", *_groups(found, notes)]
    lines += ["", "## From which layer on", "", *_layers(found)]
    if found.soon:
        lines += ["", "## How soon in training", "", *_soon(found)]
    if found.stitched:
        lines += ["", "## Identity stitching", "", *_stitched(found)]
    return "\n".join(lines) + "\n"


def terminal_tables(found: Findings) -> list[Table]:
    """Every measure over all layers."""
    table = Table(title="from in-distribution inputs, over all layers [95 % interval]", title_justify="left")
    for column in ("measure", "groups", "p", "adjusted Rand index", "AUC", "Spearman with the gap"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for way in found.ways:
        each = found.found[way, ALL]
        cells = [_short(each.agreement[name]) for name in ("ari", "auc", "spearman")]
        table.add_row(way, str(each.grouping.count), _p(each.grouping.p), *cells)
    return [table]


def answer(found: Findings) -> str:
    """The first paragraph: which measure finds the groups, from which layer on, how soon."""
    truth, finders = found.truth, found.finders()
    inside, gap = gap_of_two(truth, next(iter(found.accuracies.values()))), gap_of_two(truth, truth.accuracy)
    parts = []
    if truth.two is not None:
        better, worse = (truth.names[group] for group in truth.two)
        parts.append(
            f"The groups to be found are {better} and {worse} ({truth.how}): they differ by "
            f"{_points(inside)} in distribution and by {_points(gap)} on {truth.split}."
        )
    none = [way for way in found.ways if found.found[way, ALL].grouping.count == 1]
    if len(none) == len(found.ways):
        parts.append(
            f"**No groups are found**: by none of {_listed(found.ways)} do the {len(found.models)} models fall into "
            "groups, over all layers, more than one cloud would (lowest p "
            f"{_p(min(found.found[way, ALL].grouping.p for way in found.ways))})."
        )
    elif finders:
        said = [f"{way} (adjusted Rand index {_value(found.found[way, ALL].agreement['ari'])})" for way in finders]
        parts.append(f"From in-distribution inputs alone the groups are found by {_listed(said)}.")
        if none:
            parts.append(f"No groups are found by {_listed(none)}.")
    else:
        said = [
            f"{way} (adjusted Rand index {_value(found.found[way, ALL].agreement['ari'])})"
            for way in found.ways
            if way not in none
        ]
        parts.append(
            f"Groups are found by {_listed(said)}, but that they are **the ones that generalize alike cannot be told "
            "from chance**."
        )
    best = next((way for way in finders if way in found.parting), None)
    if best is not None:
        parts.append(f"By {best} they part {_where(found, found.parting[best])}.")
    soonest = _soonest(found)
    if soonest is not None:
        parts.append(f"They are found from step {soonest[0]} on, by {soonest[1]}.")
    related = [
        f"{way} {_value(each)}" for way in found.ways if (each := found.found[way, ALL].agreement["spearman"]).p < 0.05
    ]
    gaps = f"the gap between their accuracies on {truth.split}"
    parts.append(
        f"The distance of two models goes with {gaps} by {_listed(related)} (Spearman)."
        if related
        else f"By no measure does the distance of two models go with {gaps} more than by chance."
    )
    return " ".join(parts)


def _models(found: Findings) -> list[str]:
    truth = found.truth
    lines = [
        f"{len(found.models)} models. The truth: {truth.how}, by accuracy on {truth.split}"
        f"{'' if truth.how == 'given' else ', the split on which they differ most or that was named'}. "
        "It is used for nothing but to hold the groups against.",
        "",
    ]
    names = [name for number_, name in enumerate(truth.names) if (truth.labels == number_).any()]
    lines += [f"| split | all models, lowest to highest | {' | '.join(names)} | difference |"]
    lines += ["| --- " * (3 + len(names)) + "|"]
    for split, accuracy in found.accuracies.items():
        of = [accuracy[truth.labels == number_] for number_, name in enumerate(truth.names) if name in names]
        cells = [
            f"{each.mean():.1%} ± {each.std(ddof=1):.1%}" if len(each) > 1 else f"{each.mean():.1%}" for each in of
        ]
        span = f"{accuracy.min():.1%} to {accuracy.max():.1%}"
        lines.append(f"| {split} | {span} | {' | '.join(cells)} | {_points(gap_of_two(truth, accuracy))} |")
    return [*lines, "", "± is the standard deviation over models; of a difference, half its 95 % interval (Welch)."]


def _groups(found: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe = notes["probe"]
    padding = "padding included" if probe["include_padding"] else "padding left out"
    lines = [
        f"Distances over all layers on {probe['sequences']} in-distribution examples, {padding}: the root of the sum "
        "of squares over layers, of CKA of its arc cosine. Groups: k of them are cut by Ward's method in the first "
        "k - 1 principal coordinates; p is against one Gaussian cloud of the same spectrum, and "
        f"groups are accepted below 0.05 / {len(found.ways)}, for any measure may err. Adjusted Rand index: of "
        "these groups with the true ones. AUC: two models of different groups are farther apart than two of one. "
        "Correlations: of distance with the gap between accuracies. In brackets 95 % bootstrap intervals over models, "
        "then one-sided p values by permuting models.",
        "",
        "| measure | groups | p | silhouette | adjusted Rand index | AUC | Spearman | Kendall |",
        "| --- " * 8 + "|",
    ]
    for way in found.ways:
        lines.append(f"| {way} | {_row(found.found[way, ALL])} |")
    if len(found.models) < ENOUGH:
        lines += [
            "",
            f"With {len(found.models)} models permutations are few: p below 0.05 takes {ENOUGH} models or more.",
        ]
    for way in found.ways:
        apart = found.found[way, ALL].grouping.apart
        if apart:
            lines += ["", f"By {way}, {_listed([found.models[model] for model in apart])} stands alone."]
    return lines


def _layers(found: Findings) -> list[str]:
    lines = [
        "The groups part at the first layer from which on the mean distance across groups, less that within, is above "
        "95 % of those of permuted models at every layer to the last; the interval is over draws of models.",
        "",
        "| measure | they part | 95 % interval |",
        "| --- " * 3 + "|",
    ]
    for measure, parting in found.parting.items():
        ends = [_layer(found, end) for end in (parting.earliest, parting.latest)]
        lines.append(f"| {measure} | {_layer(found, parting.first)} | {ends[0]} to {ends[1]} |")
    if not found.parting:
        return ["There are no two groups of two models or more."]
    lines += ["", "| measure | layer | groups | p | silhouette | adjusted Rand index | AUC | Spearman |"]
    lines += ["| --- " * 8 + "|"]
    for measure in found.measures:
        for site in found.sites:
            lines.append(f"| {measure} | {site} | {_row(found.found[measure, site], QUICK)} |")
    return lines


def _soon(found: Findings) -> list[str]:
    lines = ["Over all layers, at saved steps.", ""]
    lines += ["| measure | step | groups | p | silhouette | adjusted Rand index | AUC | Spearman |"]
    lines += ["| --- " * 8 + "|"]
    for measure in found.measures:
        for step, results in found.soon.items():
            if measure in results:
                lines.append(f"| {measure} | {step} | {_row(results[measure], QUICK)} |")
        lines.append(f"| {measure} | end | {_row(found.found[measure, ALL], QUICK)} |")
    return lines


def _stitched(found: Findings) -> list[str]:
    lines = [
        "Accuracy of the first l layers of one model under the rest of another, with nothing between them; l = 0: "
        "embeddings alone, the last: all blocks under the other's final norm and head. Mean over pairs (lowest to "
        "highest where the mean is lowest).",
        "",
    ]
    layers = next(iter(next(iter(found.stitched.values())).values())).shape[1]
    lines += ["| split | front to back | " + " | ".join(f"l = {layer}" for layer in range(layers)) + " | lowest |"]
    lines += ["| --- " * (3 + layers) + "|"]
    for split, kinds in found.stitched.items():
        for (front, back), values in kinds.items():
            mean = values.mean(0)
            worst = int(mean.argmin())
            cells = " | ".join(f"{each:.3f}" for each in mean)
            span = f"l = {worst}: {values[:, worst].min():.3f} to {values[:, worst].max():.3f}"
            lines.append(f"| {split} | {front} to {back} | {cells} | {span} |")
    return lines


def _soonest(found: Findings) -> tuple[int, str] | None:
    """The first step from which on, to the end, a measure finds the groups."""
    best: tuple[int, str] | None = None
    for measure in found.measures:
        if not found.found[measure, ALL].finds:
            continue
        for step in reversed(found.soon):
            if measure not in found.soon[step] or not found.soon[step][measure].finds:
                break
            if best is None or step < best[0]:
                best = step, measure
    return best


def _where(found: Findings, parting: Parting) -> str:
    if parting.first is None:
        return "at no layer: at the last one the distance across is within the band of permuted models"
    ends = f"{_layer(found, parting.earliest)} to {_layer(found, parting.latest)}"
    return f"from {found.sites[parting.first]} on (95 % interval {ends})"


def _layer(found: Findings, layer: int | None) -> str:
    return "never" if layer is None else found.sites[layer]


def _row(result: Found, statistics: Sequence[str] = STATISTICS) -> str:
    grouping = result.grouping
    cells = [str(grouping.count), _p(grouping.p), number(grouping.silhouette, 2, sign=False)]
    return " | ".join([*cells, *(_value(result.agreement[name]) for name in statistics)])


def _value(each: Agreement) -> str:
    if math.isnan(each.value):
        return "–"
    return f"{_short(each)}, p {_p(each.p)}"


def _short(each: Agreement) -> str:
    if math.isnan(each.value):
        return "–"
    if math.isnan(each.low):
        return number(each.value, 2, sign=False)
    low, high = (number(end, 2, sign=False) for end in (each.low, each.high))
    return f"{number(each.value, 2, sign=False)} [{low}, {high}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.01" if value < 0.01 else f"{value:.2f}"


def _points(gap: tuple[float, float]) -> str:
    difference, half = (100 * value for value in gap)
    if math.isnan(difference):
        return "–"
    return f"{difference:+.1f} points" + (f" ± {half:.1f}" if math.isfinite(half) else "")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
