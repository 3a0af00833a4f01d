"""What the study `dynamics` found, in words that the numbers write."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from dissimilarity.figures.style import short_names
from studies.common.format import number
from studies.dynamics.numbers import LEVEL, Arrival, Findings, Order, smallest_p

READINGS = {"half": "half-way", "seed": "nearer than another seed"}


def summary(found: Findings, notes: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    lines = ["# When does each layer reach its final form?", "", _answer(found), "", *_means(found, notes)]
    for measure in found.measures:
        lines += ["", f"## {measure} (null {number(found.nulls[measure], sign=False)})"]
        for run in found.steps:
            lines += ["", f"### {run}", "", *_arrivals(found, measure, run), "", *_orders(found, measure, run)]
    return "\n".join(lines) + "\n"


def terminal_tables(found: Findings) -> list[Table]:
    """When each layer arrives, by measure and run."""
    kind, names = short_names(found.sites)
    table = Table(title=f"step from which a layer is at most half as far from its end: {kind}", title_justify="left")
    for column in ("measure", "run", *names, "rank correlation with depth"):
        table.add_column(column, justify="left" if column in ("measure", "run") else "right")
    for (measure, run), arrivals in found.arrivals.items():
        cells = [_step(each.half) for each in arrivals]
        table.add_row(measure, run, *cells, _said(found.orders[measure, run, "half"]))
    return [table]


def _answer(found: Findings) -> str:
    measure = found.measures[0]
    parts = []
    for run in found.steps:
        one, arrivals = found.orders[measure, run, "half"], found.arrivals[measure, run]
        known = [each for each in arrivals if math.isfinite(each.half)]
        if not known:
            parts.append(f"No layer of {run} moves.")
            continue
        first, last = min(known, key=lambda each: each.half), max(known, key=lambda each: each.half)
        words = {
            "bottom-up": "bottom-up: the lower a layer, the earlier",
            "top-down": "top-down: the higher a layer, the earlier",
            "no order": "in no order that chance would not give",
        }[one.verdict]
        parts.append(
            f"The layers of {run} reach their final form {words} ({_said(one)}, by {measure}): layer {first.layer} is "
            f"half-way at step {_step(first.half)} and layer {last.layer}, the last to be, at step {_step(last.half)}."
        )
    agreeing = [found.orders[name, run, "half"].verdict for name in found.measures[1:] for run in found.steps]
    if agreeing:
        of_first = {found.orders[measure, run, "half"].verdict for run in found.steps}
        same = sum(verdict in of_first for verdict in agreeing)
        parts.append(f"The other measures say so too in {same} of {len(agreeing)} cases.")
    return " ".join(parts)


def _means(found: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe, layers = notes["probe"], len(found.sites)
    lines = [
        f"Checkpoints: {'; '.join(f'{run} {len(steps)}' for run, steps in found.steps.items())}, compared on "
        f"{probe['sequences']} sequences of {probe['length']} tokens of the {probe['split']} split. `half-way` is the "
        "step from which the dissimilarity to the run's own last checkpoint stays at or below half of what its first "
        "one has; `nearer than another seed` is the same for the dissimilarity that the last checkpoints of the two "
        "runs have. Between checkpoints the curves are taken as straight lines over log2(1 + step); the brackets are "
        "the checkpoints on both sides. Dissimilarity: 0 = the same. The order is Spearman's correlation of layer and "
        "step with a test by permuting layers.",
    ]
    if smallest_p(layers) >= LEVEL:
        lines += [
            "",
            f"With {layers} layers no order can be told from chance: the smallest p is {smallest_p(layers):.2f}.",
        ]
    return lines


def _arrivals(found: Findings, measure: str, run: str) -> list[str]:
    lines = [
        "| layer | first to last checkpoint | null | half-way at step | nearer than another seed at step |",
        "| --- " * 5 + "|",
    ]
    for site, each in zip(found.sites, found.arrivals[measure, run], strict=True):
        low, high = each.bracket
        cells = (number(each.start, sign=False), number(each.null, sign=False), f"{_step(each.half)} [{low}, {high}]")
        lines.append(f"| {site} | " + " | ".join(cells) + f" | {_seed(each)} |")
    return lines


def _orders(found: Findings, measure: str, run: str) -> list[str]:
    return [
        f"- {words}: {found.orders[measure, run, which].verdict} ({_said(found.orders[measure, run, which])})."
        for which, words in READINGS.items()
        if math.isfinite(found.orders[measure, run, which].rho)
    ]


def _seed(each: Arrival) -> str:
    if not math.isfinite(each.floor):
        return "–"
    return f"{_step(each.seed)} (floor {number(each.floor, sign=False)})"


def _said(one: Order) -> str:
    return f"{number(one.rho, 2)}, p = {number(one.p, 3, False)}" if math.isfinite(one.rho) else "–"


def _step(step: float) -> str:
    return f"{step:,.0f}" if math.isfinite(step) else "–"
