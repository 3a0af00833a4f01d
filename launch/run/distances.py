"""The final distances of a run to its references, for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.inference.coverage import PROBE_TEXT
from dissimilarity.inference.jackknife import plus_minus
from dissimilarity.tables.final import blocks

SITES_SHOWN = 4


def final_table(finals: Sequence[dict[str, Any]]) -> FittedTable:
    """Return one line per reference and layer: value, interval, null and calibrated value, by the first measure.

    Args:
        finals: rows of ``final_values``; null for numbers that are not finite.
    """
    from dissimilarity.figures.style import short_names, spread  # matplotlib takes time

    measure, step = finals[0]["measure"], max(row["step"] for row in finals)
    by_reference: dict[str, list[dict[str, Any]]] = {}
    for row in finals:
        if row["measure"] == measure:
            by_reference.setdefault(row["reference"], []).append(row)
    others = list(dict.fromkeys(row["measure"] for row in finals if row["measure"] != measure))
    names = {reference: short_names([row["site_a"] for row in rows]) for reference, rows in by_reference.items()}
    kinds = {kind for kind, _ in names.values()}
    layer = kinds.pop() if len(kinds) == 1 else "site"
    table = FittedTable(f"against references at step {step:,}", names=["against"], drop=["null", "curve", "calibrated"])
    for column in ("against", layer, measure, "null", "calibrated", "curve"):
        table.add_column(escape(column), justify="left" if column in ("against", "curve") else "right")
    for reference, rows in by_reference.items():
        shown = names[reference][1] if layer != "site" else [row["site_a"] for row in rows]
        for number, (name, row) in enumerate(spread(list(zip(shown, rows, strict=True)), SITES_SHOWN)):
            cells = (
                _value(row),
                _number(row["null"], 2),
                _number(row["calibrated"], 2),
                _shape(row),
            )
            table.add_row("" if number else escape(reference), escape(name), *cells)
        table.add_section()
    also = f" Also measured: {escape(', '.join(others))} (summary.json)." if others else ""
    table.caption, table.caption_justify = f"curve: the dissimilarity, from 0 up.{also} {PROBE_TEXT}", "left"
    return table


def _shape(row: dict[str, Any]) -> str:
    return blocks([None if value is None else float(value) for value in row["curve"]])


def _value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "no value"
    stderr = math.nan if row["stderr"] is None else float(row["stderr"])
    return _number(row["value"], 3) + plus_minus(stderr, row["n_units"])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"
