"""Differences of values on one probe set, with errors of their own.

Two ticks, layers, references or models on one probe set vary together with its text, so their difference varies far
less than two error bars suggest. The influence of a unit on a difference is the difference of its influences, and the
standard error follows from that (``inference.jackknife``).

A difference of two equal models is 0 in every unit. Its p is 1, never the 0 of a standard error of 0. So is that of a
difference which the rounding of float32 activations could make.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy import special

from dissimilarity.inference.jackknife import half_width
from dissimilarity.tables.curves import distinct, scale, select
from dissimilarity.tables.result import AnyTable, ResultTable, as_arrow

ROUNDING = 1e-6
"""Differences up to this may come from the rounding of float32 activations."""

KEYS = ("model_a", "model_b", "control", "step", "reference", "measure", "site_a", "site_b")
"""Columns that say what a row of curves, or of the table of ``compare``, is about."""
ESTIMATORS = {"sample", "biased"}
"""Last words of labels that name an estimator of the quantity before them.

Not ``debiased``: distance correlation is a root without it, and its square with it.
"""

Row = Mapping[str, Any]


class Difference(NamedTuple):
    """A difference of two dissimilarities with its standard error, 95% interval and two-sided p of no difference.

    All but the difference are NaN with fewer than two units.
    """

    difference: float
    stderr: float
    low: float
    high: float
    p: float
    n_units: int


def paired_difference(difference: float, influence: ArrayLike) -> Difference:
    """Return the error of a difference from the influences of the units on it.

    Examples:
        >>> result = paired_difference(0.3, [0.1, -0.2, 0.1])
        >>> round(result.stderr, 3), round(result.p, 3)
        (0.3, 0.423)
        >>> paired_difference(0.0, [0.0, 0.0, 0.0]).p
        1.0
    """
    influence = np.asarray(influence, np.float64)
    n_units = len(influence)
    if n_units < 2:
        return Difference(difference, math.nan, math.nan, math.nan, math.nan, n_units)
    stderr = float(influence.std() * n_units / math.sqrt(n_units - 1))
    half, p = float(half_width(stderr, n_units)), math.nan
    if abs(difference) <= ROUNDING:
        p = 1.0
    elif stderr:
        p = float(2 * special.stdtr(n_units - 1, -abs(difference) / stderr))
    return Difference(difference, stderr, difference - half, difference + half, p, n_units)


def difference(a: AnyTable, b: AnyTable) -> ResultTable:
    """Return the dissimilarities of one table minus those of another on the same probe set, with paired errors.

    Both are selections from curves (``read_curves``) or from the tables of ``compare`` and ``compare_many``. They
    differ in what is compared: a step, a reference, a site, a pair of models, a run.

    Args:
        a: rows of the first side.
        b: rows of the second side. A column that has one value here and another one in `a` is what is compared. In all
            other columns, rows are paired by equal values, and rows without a partner are left out.

    Returns:
        one row per pair, with the columns in which its rows agree, difference (of dissimilarities, a minus b), stderr,
        low and high (95% interval), p (of no difference; 1 up to 1e-6, which is rounding) and n_units. They cover
        other text of this kind, for these models. A pair without a value is NaN.

    Raises:
        ValueError: rows without influences, of different probe sets or units, of measures on different scales, or that
            cannot be paired one to one.

    Examples:
        >>> import torch
        >>> from dissimilarity import CKA, compare, difference, select
        >>> g = torch.Generator().manual_seed(0)
        >>> x, noise = (torch.randn(40, 8, generator=g, dtype=torch.float64) for _ in range(2))
        >>> table = compare({"x": x}, {"near": x + noise / 9, "far": x + noise}, measures=[CKA()])
        >>> row = difference(select(table, site_b="far"), select(table, site_b="near")).to_pylist()[0]
        >>> row["site_a"], round(row["difference"], 2), row["p"] < 0.001
        ('x', 0.5, True)
    """
    for side, table in (("first", a), ("second", b)):
        if not {"measure", "dissimilarity", "influence"}.issubset(table.column_names) or not table.num_rows:
            raise ValueError(
                f"expected rows with measure, dissimilarity and influence on the {side} side, found {table.num_rows} "
                f"rows with {', '.join(table.column_names)}; select from read_curves(...) or the table of compare(...)"
            )
    a, b = as_arrow(a), as_arrow(b)
    columns = _paired_columns(a, b)
    first, second = _by_key(a, columns, "first"), _by_key(b, columns, "second")
    slopes = slopes_of([a, b])
    results = []
    for key in [key for key in first if key in second]:
        x, y = first[key], second[key]
        _check_pair(x, y)
        results.append({**dict(zip(columns, key, strict=True)), **difference_of_rows(x, y, slopes)._asdict()})
    if not results:
        raise ValueError(
            f"expected rows with the same {', '.join(columns)} on both sides, found none; select other rows"
        )
    return ResultTable(pa.Table.from_pylist(results))


def slopes_of(tables: Iterable[pa.Table]) -> dict[str, float]:
    """Return the derivative of the dissimilarity with respect to the value, 1 or -1, by measure."""
    rows = pa.concat_tables([table.select(["measure", "value", "dissimilarity"]) for table in tables])
    return {measure: scale(select(rows, measure=measure))[0] for measure in distinct(rows, "measure")}


def difference_of_rows(x: Row, y: Row, slopes: Mapping[str, float]) -> Difference:
    """Return the dissimilarity of one row minus that of another of the same units; NaN where one has no value."""
    gap = x["dissimilarity"] - y["dissimilarity"]
    if not x["influence"] or not y["influence"]:
        return paired_difference(gap, [])
    influences = [slopes[row["measure"]] * np.array(row["influence"]) for row in (x, y)]
    return paired_difference(gap, influences[0] - influences[1])


def _paired_columns(a: pa.Table, b: pa.Table) -> list[str]:
    """Return the columns in which rows are paired: all that identify them, but those that are compared."""
    columns = []
    for column in KEYS:
        if column not in a.column_names or column not in b.column_names:
            continue
        values_a, values_b = distinct(a, column), distinct(b, column)
        if not set(values_a).isdisjoint(values_b):
            columns.append(column)
        elif len(values_a) > 1 or len(values_b) > 1:
            raise ValueError(
                f"expected equal values of {column} on both sides, or one value on each, found {_listed(values_a)} and "
                f"{_listed(values_b)}; select one of each"
            )
        elif column == "measure" and _quantity(values_a[0]) != _quantity(values_b[0]):
            raise ValueError(
                f"expected measures on one scale, found {values_a[0]} and {values_b[0]}, whose dissimilarities cannot "
                "be subtracted; select one measure"
            )
    return columns


def _quantity(label: str) -> str:
    """Return what a measure estimates: its label without the name of the estimator."""
    first, _, last = label.rpartition("_")
    return first if first and last in ESTIMATORS else label


def _by_key(table: pa.Table, columns: Sequence[str], side: str) -> dict[tuple[Any, ...], Row]:
    """Return the rows of a table by their values in the columns."""
    rows: dict[tuple[Any, ...], Row] = {}
    for row in table.to_pylist():
        key = tuple(row[column] for column in columns)
        if key in rows:
            differing = [column for column in KEYS if column in row and row[column] != rows[key][column]]
            where = f"they differ in {', '.join(differing)}" if differing else "they differ in none of the columns"
            raise ValueError(
                f"expected one row per {', '.join(columns) or 'side'} on the {side} side, found several, and {where}; "
                "select fewer rows"
            )
        rows[key] = row
    return rows


def _check_pair(x: Row, y: Row) -> None:
    """Reject two rows whose units are not the same text."""
    probes = [row.get("probe") or "" for row in (x, y)]
    if all(probes) and probes[0] != probes[1]:
        raise ValueError(
            f"expected rows of one probe set, found {probes[0]} and {probes[1]}: their units are different text, so "
            "nothing cancels; compare both on the same sequences and n_units"
        )
    units = [len(row["influence"]) for row in (x, y)]
    if all(units) and units[0] != units[1]:
        raise ValueError(
            f"expected rows of the same units, found {units[0]} and {units[1]} units; compare both on the same "
            "sequences and n_units"
        )


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return shown if len(values) <= 4 else f"{shown}, ... ({len(values)})"
