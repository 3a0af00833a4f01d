"""Where the curves of a run end, as numbers and as a line of blocks for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dissimilarity.tables.curves import distinct, matched, select

COLUMNS = ("value", "stderr", "n_units", "null", "calibrated")
BLOCKS = "▁▂▃▄▅▆▇█"
POINTS = 16
"""Points of a curve that a line of blocks shows."""


def final_values(table: pa.Table) -> list[dict[str, Any]]:
    """Return the last value of every curve at sites of equal depth, with the dissimilarities that led there.

    Args:
        table: the curves of a run.

    Returns:
        per curve: reference, measure, site_a, site_b, step, value, stderr, n_units, null and calibrated at the last
        tick, and ``curve``, at most `POINTS` of its dissimilarities, evenly spaced ticks, the last one included.
    """
    rows: list[dict[str, Any]] = []
    for reference in distinct(table, "reference"):
        of_reference = select(table, reference=reference)
        for measure in distinct(of_reference, "measure"):
            curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in matched(select(of_reference, measure=measure)).to_pylist():
                curves.setdefault((row["site_a"], row["site_b"]), []).append(row)
            for (site_a, site_b), ticks in curves.items():
                names = {"reference": reference, "measure": measure, "site_a": site_a, "site_b": site_b}
                last, shown = ticks[-1], _spaced([row["dissimilarity"] for row in ticks])
                rows.append({**names, "step": last["step"], **{key: last[key] for key in COLUMNS}, "curve": shown})
    return rows


def blocks(curve: Sequence[float | None]) -> str:
    """Return a curve as blocks from 0 to its highest point, with blanks where it has no value.

    >>> blocks([0.0, 0.1, 0.2, None, 0.4])
    '▁▃▅ █'
    """
    finite = [value for value in curve if value is not None and math.isfinite(value)]
    top = max(finite, default=0.0)
    return "".join(_block(value, top) for value in curve)


def _block(value: float | None, top: float) -> str:
    if value is None or not math.isfinite(value):
        return " "
    share = value / top if top > 0 else 0.0
    return BLOCKS[max(0, min(len(BLOCKS) - 1, round(share * (len(BLOCKS) - 1))))]


def _spaced(values: list[float]) -> list[float]:
    if len(values) <= POINTS:
        return values
    return [values[round(index * (len(values) - 1) / (POINTS - 1))] for index in range(POINTS)]
