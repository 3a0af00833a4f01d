"""The summary of the study `dynamics`, written from its numbers."""

import math
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from dissimilarity.cli.fitted_table import FittedTable, inner_first
from dissimilarity.figures.style import short_names
from dissimilarity.inference.coverage import CHECKPOINTS, FEWEST_MODELS, SEEDS
from studies.common.format import DASH, interval, listed, number, p_value, table_head, table_row
from studies.common.jackknife import no_interval
from studies.dynamics.numbers import Arrival, Findings, Order

READINGS = {"half": "halfway", "seed": "closer than another seed"}
VERDICTS = {
    "bottom-up": "bottom-up, lower layers first",
    "top-down": "top-down, upper layers first",
    "no order": "in no order that runs agree on",
}


def summary(findings: Findings, notes: Mapping[str, Any]) -> str:
    """Return the summary, one page of Markdown."""
    lines = ["# When does each layer reach its final form?", "", _answer(findings), "", *_methods(findings, notes)]
    for measure in findings.measures:
        note = "" if measure == findings.measures[0] else ", exploratory"
        lines += ["", f"## {measure} (null {number(findings.nulls[measure], sign=False)}){note}"]
        lines += ["", *_orders(findings, measure)]
        for run in findings.steps:
            lines += [
                "",
                f"### {run}",
                "",
                *_arrivals(findings, measure, run),
                "",
                *_correlations(findings, measure, run),
            ]
    return "\n".join(lines) + "\n"


def terminal_tables(findings: Findings) -> list[FittedTable]:
    """Return when each layer arrives, by measure and run."""
    kind, names = short_names(findings.sites)
    title = f"step from which a layer is at most half as far from its final form as at first: {kind}"
    table = FittedTable(title, names=["run"], drop=inner_first(names))
    for column in ("measure", "run", *names, "rank correlation with depth"):
        table.add_column(column, justify="left" if column in ("measure", "run") else "right")
    for (measure, run), arrivals in findings.arrivals.items():
        cells = [_step(arrival.half) for arrival in arrivals]
        table.add_row(measure, escape(run), *cells, number(findings.orders[measure, "half"].rhos[run], 2))
    return [table]


def _answer(findings: Findings) -> str:
    measure = findings.measures[0]
    order = findings.orders[measure, "half"]
    if order.verdict == "no verdict":
        sentences = [f"Nothing is claimed about the order of the layers ({no_interval(order.delay.models)})."]
    else:
        sentences = [
            f"The layers reach their final form {VERDICTS[order.verdict]}: by {measure}, the delay from one layer to "
            f"the next is {_delay(order)}."
        ]
    for run in findings.steps:
        moving = [arrival for arrival in findings.arrivals[measure, run] if math.isfinite(arrival.half)]
        if not moving:
            sentences.append(f"No layer of {run} changes.")
            continue
        first, last = (choose(moving, key=_half) for choose in (min, max))
        sentences.append(
            f"In {run} (rank correlation {number(order.rhos[run], 2)}) layer {first.layer} is the first to be halfway, "
            f"at step {_step(first.half)}, and layer {last.layer} the last, at step {_step(last.half)}."
        )
    if len(findings.measures) > 1:
        sentences.append(f"{measure} is the primary measure; {listed(findings.measures[1:])} are exploratory.")
    return " ".join(sentences)


def _half(arrival: Arrival) -> float:
    return arrival.half


def _methods(findings: Findings, notes: Mapping[str, Any]) -> list[str]:
    probe = notes["probe"]
    counts = "; ".join(f"{run} {len(steps)}" for run, steps in findings.steps.items())
    covered = f"{SEEDS} " if len(findings.steps) >= FEWEST_MODELS else ""
    return [
        f"Checkpoints: {counts}, compared on {probe['sequences']} sequences of {probe['length']} tokens from the "
        f"{probe['split']} split. A layer is `halfway` from the step at which its dissimilarity to the run's last "
        "checkpoint stays at or below half of the first checkpoint's. It is `closer than another seed` from the step "
        "at which that dissimilarity stays at or below the mean dissimilarity between the last checkpoint of this run "
        "and those of the other runs. Between checkpoints, curves are straight lines over log2(1 + step); brackets "
        "show the checkpoints on both sides. Dissimilarity: 0 = the same. Layers of one run depend on each other, so "
        "the run is the unit: its least-squares slope of log2(1 + step) on depth is tested over runs (t test). "
        f"{covered}{CHECKPOINTS} Fewer than {FEWEST_MODELS} runs have no interval and no verdict.",
    ]


def _arrivals(findings: Findings, measure: str, run: str) -> list[str]:
    columns = ("layer", "first to last checkpoint", "null", "halfway at step", "closer than another seed at step")
    lines = table_head(*columns)
    for site, arrival in zip(findings.sites, findings.arrivals[measure, run], strict=True):
        low, high = arrival.bracket
        start, null = (number(value, sign=False) for value in (arrival.start, arrival.null))
        lines.append(table_row(site, start, null, f"{_step(arrival.half)} [{low}, {high}]", _seed(arrival)))
    return lines


def _orders(findings: Findings, measure: str) -> list[str]:
    orders = {words: findings.orders[measure, key] for key, words in READINGS.items()}
    return [
        f"- {words}: {order.verdict}; the delay per layer is {_delay(order)}."
        for words, order in orders.items()
        if math.isfinite(order.delay.mean)
    ]


def _correlations(findings: Findings, measure: str, run: str) -> list[str]:
    rhos = {words: findings.orders[measure, key].rhos[run] for key, words in READINGS.items()}
    return [
        f"- {words}: rank correlation with depth {number(rho, 2)}." for words, rho in rhos.items() if math.isfinite(rho)
    ]


def _seed(arrival: Arrival) -> str:
    if not math.isfinite(arrival.floor):
        return DASH
    return f"{_step(arrival.seed)} (floor {number(arrival.floor, sign=False)})"


def _delay(order: Order) -> str:
    delay = f"{interval(order.delay, 2)} doublings of the step"
    return f"{delay} ({p_value(order.delay.p)})" if math.isfinite(order.delay.p) else delay


def _step(step: float) -> str:
    return f"{step:,.0f}" if math.isfinite(step) else DASH
