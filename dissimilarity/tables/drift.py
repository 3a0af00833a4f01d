"""Groups of references: to which of them a model is nearer, step by step, from the curves table alone.

A table of its own beside the curves, `groups.parquet`, whose rows are means over references; every row of the curves
stays one measurement of one reference.

| column | type | meaning |
| --- | --- | --- |
| step, tokens | int64 | as in the curves |
| group | string | a group's name, or, where there are two, `a-b` for what lies between them |
| measure, site | string | as in the curves; the site of the model in training, paired at equal relative depth |
| dissimilarity | float64 | mean over the group's references; of `a-b` a's minus b's: below 0 = nearer to a |
| stderr | float64 | standard error of it |
| references | int64 | how many references are behind it |

**Standard error.** The references of a group are a sample of their kind, n values of variance S^2; each value has an
error of its own from the probe sequences (the jackknife's, on average s), which all share, so that it does not shrink
with n: stderr^2 = S^2 / n + s^2. The squares of two groups add up in their difference. What the probe sequences have in
common to both groups would cancel there and is not taken out, so that the error of a difference is rather too large
than too small. Of a single reference S is not known: stderr is then that of this reference, not of its kind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import pyarrow as pa

from dissimilarity.tables.curves import distinct, matched, read_curves, select
from dissimilarity.tables.seal import read_table, write_table

FILE = "groups.parquet"
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("group", pa.string()),
        ("measure", pa.string()),
        ("site", pa.string()),
        ("dissimilarity", pa.float64()),
        ("stderr", pa.float64()),
        ("references", pa.int64()),
    ]
)
CONFIDENCE = 1.96

Groups = Mapping[str, Sequence[str]]


def between(groups: Iterable[str]) -> str:
    """What the rows of the difference are called, `a-b`; empty unless there are two groups."""
    names = list(groups)
    return "-".join(names) if len(names) == 2 else ""


def names(table: pa.Table) -> list[str]:
    """The groups of a table, in order, without their difference; no `-` is in a group's name."""
    return [name for name in distinct(table, "group") if "-" not in name]


def group_rows(rows: Iterable[Mapping[str, Any]], groups: Groups) -> list[dict[str, Any]]:
    """The rows of groups, from rows of curves at matched pairs of sites.

    Args:
        rows: of any steps, references and measures; what has no value counts for nothing.
        groups: name -> labels of its references.
    """
    found: dict[tuple[int, int, str, str], dict[str, tuple[float, float]]] = {}
    for row in rows:
        of = found.setdefault((row["step"], row["tokens"], row["measure"], row["site_a"]), {})
        if math.isfinite(row["dissimilarity"]):
            of[row["reference"]] = row["dissimilarity"], row["stderr"]
    made = []
    for (step, tokens, measure, site), of in found.items():
        means = {name: _mean([of[label] for label in labels if label in of]) for name, labels in groups.items()}
        if between(groups):
            (value, error, count), (other, other_error, others) = means.values()
            means[between(groups)] = value - other, math.hypot(error, other_error), count + others
        made += [
            dict(zip(SCHEMA.names, (step, tokens, name, measure, site, *mean), strict=True))
            for name, mean in means.items()
        ]
    return made


def _mean(values: Sequence[tuple[float, float]]) -> tuple[float, float, int]:
    """Mean of values with their standard errors, its standard error, and of how many."""
    if not values:
        return math.nan, math.nan, 0
    spread = variance([value for value, _ in values]) / len(values) if len(values) > 1 else 0.0
    errors = [error for _, error in values if math.isfinite(error)]
    error = math.hypot(math.sqrt(spread), fmean(errors)) if errors else math.sqrt(spread) if spread else math.nan
    return fmean(value for value, _ in values), error, len(values)


def group_table(curves: pa.Table, groups: Groups) -> pa.Table:
    """The table of groups of a table of curves; of heat maps only the pairs at equal relative depth count."""
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(label for labels in groups.values() for label in labels):
        of_reference = select(curves, reference=label)
        for measure in distinct(of_reference, "measure"):
            rows += matched(select(of_reference, measure=measure)).to_pylist()
    made = group_rows(rows, groups)
    return pa.Table.from_pylist(sorted(made, key=lambda row: row["step"]), schema=SCHEMA)


def write_groups(folder: Path, groups: Groups) -> pa.Table:
    """Replaces the table of groups in a run's folder by what its curves say now, and returns it."""
    table = group_table(read_curves(folder), groups)
    write_table(table, folder / FILE)
    return table


def read_groups(folder: Path) -> pa.Table:
    """The table of groups of a run."""
    return read_table(folder / FILE)


def drift(table: pa.Table) -> dict[str, dict[str, Any]]:
    """To which group the model was nearest at the last step that has values, by measure, at the last site of each.

    Returns:
        measure -> `site`, `step`, `nearest` and `next` (names of groups), `difference` (how much farther the next group
        is, 0 or more), its `stderr`, and `differs`: whether it is above 1.96 standard errors, without which `nearest`
        says nothing. Measures that have values of fewer than two groups are left out.
    """
    found = {}
    for measure in distinct(table, "measure"):
        of_measure = select(table, measure=measure)
        site = distinct(of_measure, "site")[-1]
        rows = [
            row
            for row in select(of_measure, site=site).to_pylist()
            if row["group"] in names(table) and math.isfinite(row["dissimilarity"])
        ]
        last = max((row["step"] for row in rows), default=0)
        order = sorted((row for row in rows if row["step"] == last), key=lambda row: row["dissimilarity"])
        if len(order) < 2:
            continue
        nearest, following = order[:2]
        difference = following["dissimilarity"] - nearest["dissimilarity"]
        stderr = math.hypot(nearest["stderr"], following["stderr"])
        found[measure] = {
            "site": site,
            "step": last,
            "nearest": nearest["group"],
            "next": following["group"],
            "difference": difference,
            "stderr": stderr,
            "differs": difference > CONFIDENCE * stderr,
        }
    return found
