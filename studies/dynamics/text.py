"""The summary of the study `dynamics`, written from its numbers."""

import math
from collections.abc import Mapping
from typing import Any

from dissimilarity.figures.style import short_names
from launch.cli.tables import FittedTable, inner_first
from studies.common.format import DASH, number, table_head, table_row
from studies.dynamics.numbers import LEVEL, Arrival, Findings, Order, smallest_p

READINGS = {"half": "halfway", "seed": "closer than another seed"}
VERDICTS = {
    "bottom-up": "bottom-up: the lower a layer, the earlier",
    "top-down": "top-down: the higher a layer, the earlier",
    "no order": "in no order that differs from chance",
}


def summary(findings: Findings, notes: Mapping[str, Any]) -> str:
    """Return the summary, one page of Markdown."""
    lines = ["# When does each layer reach its final form?", "", _answer(findings), "", *_methods(findings, notes)]
    for measure in findings.measures:
        lines += ["", f"## {measure} (null {number(findings.nulls[measure], sign=False)})"]
        for run in findings.steps:
            lines += ["", f"### {run}", "", *_arrivals(findings, measure, run), "", *_orders(findings, measure, run)]
    return "\n".join(lines) + "\n"


def terminal_tables(findings: Findings) -> list[FittedTable]:
    """Return when each layer arrives, by measure and run."""
    kind, names = short_names(findings.sites)
    title = f"step from which a layer is at most half as far from its final form: {kind}"
    table = FittedTable(title, names=["run"], drop=inner_first(names))
    for column in ("measure", "run", *names, "rank correlation with depth"):
        table.add_column(column, justify="left" if column in ("measure", "run") else "right")
    for (measure, run), arrivals in findings.arrivals.items():
        cells = [_step(arrival.half) for arrival in arrivals]
        table.add_row(measure, run, *cells, _correlation(findings.orders[measure, run, "half"]))
    return [table]


def _answer(findings: Findings) -> str:
    measure = findings.measures[0]
    sentences = []
    for run in findings.steps:
        order, arrivals = findings.orders[measure, run, "half"], findings.arrivals[measure, run]
        moving = [arrival for arrival in arrivals if math.isfinite(arrival.half)]
        if not moving:
            sentences.append(f"No layer of {run} changes.")
            continue
        first, last = (choose(moving, key=_half) for choose in (min, max))
        sentences.append(
            f"The layers of {run} reach their final form {VERDICTS[order.verdict]} ({_correlation(order)}, by "
            f"{measure}): layer {first.layer} is halfway at step {_step(first.half)}, and layer {last.layer}, the last "
            f"one, at step {_step(last.half)}."
        )
    others = [findings.orders[name, run, "half"].verdict for name in findings.measures[1:] for run in findings.steps]
    if others:
        by_first = {findings.orders[measure, run, "half"].verdict for run in findings.steps}
        agreeing = sum(verdict in by_first for verdict in others)
        sentences.append(f"The other measures agree in {agreeing} of {len(others)} cases.")
    return " ".join(sentences)


def _half(arrival: Arrival) -> float:
    return arrival.half


def _methods(findings: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe, layers = notes["probe"], len(findings.sites)
    counts = "; ".join(f"{run} {len(steps)}" for run, steps in findings.steps.items())
    lines = [
        f"Checkpoints: {counts}, compared on {probe['sequences']} sequences of {probe['length']} tokens from the "
        f"{probe['split']} split. A layer is `halfway` from the step at which its dissimilarity to the run's last "
        "checkpoint stays at or below half of the first checkpoint's. It is `closer than another seed` from the step "
        "at which that dissimilarity stays at or below the one between the last checkpoints of the two runs. Between "
        "checkpoints, curves are straight lines over log2(1 + step); brackets show the checkpoints on both sides. "
        "Dissimilarity: 0 = the same. The order is Spearman's correlation of layer and step, tested by permuting the "
        "layers.",
    ]
    if smallest_p(layers) >= LEVEL:
        p = f"{smallest_p(layers):.2f}"
        lines += ["", f"With {layers} layers no order can be told from chance: the smallest possible p is {p}."]
    return lines


def _arrivals(findings: Findings, measure: str, run: str) -> list[str]:
    columns = ("layer", "first to last checkpoint", "null", "halfway at step", "closer than another seed at step")
    lines = table_head(*columns)
    for site, arrival in zip(findings.sites, findings.arrivals[measure, run], strict=True):
        low, high = arrival.bracket
        start, null = (number(value, sign=False) for value in (arrival.start, arrival.null))
        lines.append(table_row(site, start, null, f"{_step(arrival.half)} [{low}, {high}]", _seed(arrival)))
    return lines


def _orders(findings: Findings, measure: str, run: str) -> list[str]:
    orders = {words: findings.orders[measure, run, key] for key, words in READINGS.items()}
    return [
        f"- {words}: {order.verdict} ({_correlation(order)})."
        for words, order in orders.items()
        if math.isfinite(order.rho)
    ]


def _seed(arrival: Arrival) -> str:
    if not math.isfinite(arrival.floor):
        return DASH
    return f"{_step(arrival.seed)} (floor {number(arrival.floor, sign=False)})"


def _correlation(order: Order) -> str:
    return f"{number(order.rho, 2)}, p = {number(order.p, 3, False)}" if math.isfinite(order.rho) else DASH


def _step(step: float) -> str:
    return f"{step:,.0f}" if math.isfinite(step) else DASH
