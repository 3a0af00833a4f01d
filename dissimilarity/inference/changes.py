"""Where curves move: every tick against the first one, with Holm's correction over the ticks of a curve."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dissimilarity.inference.paired import difference_of_rows, slopes_of
from dissimilarity.tables.curves import distinct, matched, select

LEVEL = 0.05
"""Probability that a curve without any change is said to move."""

CURVE = ("reference", "measure", "site_a", "site_b")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in CURVE]
    + [("since", pa.int64()), ("step", pa.int64())]
    + [(name, pa.float64()) for name in ("difference", "stderr", "low", "high", "p")]
    + [("n_units", pa.int64()), ("p_holm", pa.float64())]
)

Moves = dict[tuple[str, str, str, str], int | None]
"""Curve -> step."""


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p values adjusted for their number (Holm 1979): those below 0.05 hold together at 95%. NaN stays NaN.

    Examples:
        >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
        [0.03, 0.06, nan, 0.06]
    """
    adjusted = np.full(len(p), math.nan)
    order = [int(index) for index in np.argsort(p, kind="stable") if not math.isnan(p[index])]
    if order:
        factors = np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def changes(table: pa.Table) -> pa.Table:
    """Return the differences of every tick of each curve from its first tick, on the probe set that they share.

    Args:
        table: records of the curves schema; pairs of sites at equal relative depth are taken.

    Returns:
        one row per curve and later tick with a value: reference, measure, site_a, site_b, since (step of the first
        tick), step, difference, stderr, low, high, p and n_units as from ``difference``, and p_holm, adjusted over the
        ticks of the curve. Ticks on another probe set than the first are left out.

    Raises:
        ValueError: a table of something else, such as that of ``compare``.

    Examples:
        >>> at = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed", "probe": ""}
        >>> values = {0: (0.0, [0.0, 0.0, 0.0]), 1: (0.1, [0.01, -0.01, 0.0]), 2: (0.2, [0.01, 0.0, -0.01])}
        >>> rows = [
        ...     {**at, "step": step, "value": 1 - d, "dissimilarity": d, "influence": influence}
        ...     for step, (d, influence) in values.items()
        ... ]
        >>> changes(pa.Table.from_pylist(rows))["p_holm"].to_numpy().round(3).tolist()
        [0.029, 0.015]
    """
    if missing := [name for name in (*CURVE, "step") if name not in table.column_names]:
        raise ValueError(
            f"expected the curves of a run, found a table without {', '.join(missing)}; pass read_curves(FOLDER)"
        )
    rows = []
    for reference in distinct(table, "reference"):
        of_reference = select(table, reference=reference)
        for measure in distinct(of_reference, "measure"):
            rows += _changes(matched(select(of_reference, measure=measure)))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def moves(table: pa.Table) -> Moves:
    """Return the first step at which each curve differs from its first tick; None if it never does.

    It differs where ``p_holm`` of ``changes`` is below 0.05. Curves with fewer than two such ticks are left out.
    """
    first: Moves = {}
    for row in changes(table).to_pylist():
        curve = tuple(row[column] for column in CURVE)
        first.setdefault(curve, None)
        if row["p_holm"] < LEVEL and first[curve] is None:
            first[curve] = row["step"]
    return first


def _changes(table: pa.Table) -> list[dict[str, Any]]:
    """Return the changes of the curves of one reference and one measure, tick by tick."""
    slopes, rows = slopes_of([table]), table.to_pylist()
    by_curve: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["influence"]:
            by_curve.setdefault(tuple(row[column] for column in CURVE), []).append(row)
    results = []
    for curve, (first, *later) in by_curve.items():
        ticks = [row for row in later if _share_units(row, first)]
        differences = [difference_of_rows(row, first, slopes) for row in ticks]
        adjusted = holm(np.array([result.p for result in differences]))
        for row, result, p_holm in zip(ticks, differences, adjusted.tolist(), strict=True):
            at = {**dict(zip(CURVE, curve, strict=True)), "since": first["step"], "step": row["step"]}
            results.append({**at, **result._asdict(), "p_holm": p_holm})
    return results


def _share_units(row: dict[str, Any], first: dict[str, Any]) -> bool:
    return row["probe"] == first["probe"] and len(row["influence"]) == len(first["influence"])
