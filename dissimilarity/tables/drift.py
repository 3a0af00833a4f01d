"""Reference groups: toward which group of references a model drifts, step by step, from the curves table alone.

The result is a separate table beside the curves, `groups.parquet`. Its records are means over references, while every
record of the curves remains one measurement of one reference.

| column | type | meaning |
| --- | --- | --- |
| step, tokens | int64 | as in the curves |
| group | string | a group's name, or, if there are two groups, `a-b` for their difference |
| measure, site | string | as in the curves; the site of the model in training, paired at equal relative depth |
| dissimilarity | float64 | mean over the group's references; for `a-b` that of a minus that of b: < 0 = nearer to a |
| stderr | float64 | standard error of the dissimilarity |
| freedom | float64 | degrees of freedom of stderr; NaN below three references per group |
| low, high | float64 | 95 % interval over references; NaN below three references per group |
| references | int64 | number of references behind it |

**Standard error.** The references of a group are a sample of their kind: n values of variance S^2. Each value also has
its own error from the probe sequences (from the jackknife, on average s). All references share these sequences, so this
error does not shrink with n: stderr^2 = S^2 / n + s^2. For a difference the squares of both groups add up. The part of
the error that both groups share through the probe sequences would cancel there, but is not removed, so the error of a
difference is too large rather than too small. For a single reference S is unknown, and stderr is the error of that
reference, not of its kind.

**Intervals** are Student's, with Satterthwaite's degrees of freedom: S^2 / n has n - 1, and s^2, which is known from
many sequences, as many as one likes; a difference is Welch's. They cover other references of these kinds, for this one
model and its text. Three references per group are the fewest that say something about their kind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

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
        ("freedom", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("references", pa.int64()),
    ]
)
ENOUGH = 3
"""References per group below which there is neither an interval nor a verdict."""
LEVEL = 0.05
LARGE = 1e6
"""Degrees of freedom that stand for any number of them."""

Groups = Mapping[str, Sequence[str]]


def between(groups: Iterable[str]) -> str:
    """Return the name of the difference of two groups, `a-b`; empty unless there are two groups.

    Example:
        >>> between(["solu", "gelu"])
        'solu-gelu'
    """
    group_names = list(groups)
    return "-".join(group_names) if len(group_names) == 2 else ""


def names(table: pa.Table) -> list[str]:
    """Return the groups of a table in order, without their difference. A group's name contains no `-`."""
    return [name for name in distinct(table, "group") if "-" not in name]


def group_records(records: Iterable[Mapping[str, Any]], groups: Groups) -> list[dict[str, Any]]:
    """Return the records of groups, from records of curves at matched pairs of sites.

    Args:
        records: records of any steps, references and measures. Records without a value are ignored.
        groups: name -> labels of its references.

    Example:
        >>> at = {"step": 1, "tokens": 64, "measure": "cka", "site_a": "embed", "stderr": 0.0}
        >>> curves = [{**at, "reference": label, "dissimilarity": d} for label, d in (("s0", 0.1), ("s1", 0.3))]
        >>> [record["dissimilarity"] for record in group_records(curves, {"solu": ["s0", "s1"]})]
        [0.2]
    """
    by_site: dict[tuple[int, int, str, str], dict[str, tuple[float, float]]] = {}
    for record in records:
        values = by_site.setdefault((record["step"], record["tokens"], record["measure"], record["site_a"]), {})
        if math.isfinite(record["dissimilarity"]):
            values[record["reference"]] = record["dissimilarity"], record["stderr"]
    group_means = []
    for (step, tokens, measure, site), values in by_site.items():
        means = {name: _mean([values[label] for label in labels if label in values]) for name, labels in groups.items()}
        if between(groups):
            means[between(groups)] = _difference(*means.values())
        for name, mean in means.items():
            low, high = mean.interval
            row = (step, tokens, name, measure, site, mean.value, mean.stderr, mean.freedom, low, high, mean.references)
            group_means.append(dict(zip(SCHEMA.names, row, strict=True)))
    return group_means


class _Mean(NamedTuple):
    """A mean over references or a difference of two, as in the table."""

    value: float
    stderr: float
    freedom: float
    references: int

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval."""
        low, high = stats.t.interval(1 - LEVEL, self.freedom, self.value, self.stderr)
        return float(low), float(high)


def _mean(values: Sequence[tuple[float, float]]) -> _Mean:
    """Return the mean of values with standard errors."""
    if not values:
        return _Mean(math.nan, math.nan, math.nan, 0)
    count = len(values)
    spread = variance([value for value, _ in values]) / count if count > 1 else 0.0
    errors = [error for _, error in values if math.isfinite(error)]
    error = math.hypot(math.sqrt(spread), fmean(errors)) if errors else math.sqrt(spread) if spread else math.nan
    freedom = min(error**4 / (spread**2 / (count - 1)), LARGE) if spread else LARGE
    return _Mean(fmean(value for value, _ in values), error, freedom if count >= ENOUGH else math.nan, count)


def _difference(a: _Mean, b: _Mean) -> _Mean:
    """Return the difference of two means, with Satterthwaite's degrees of freedom."""
    total = a.stderr**2 + b.stderr**2
    freedom = total**2 / (a.stderr**4 / a.freedom + b.stderr**4 / b.freedom) if total else math.nan
    return _Mean(a.value - b.value, math.sqrt(total), freedom, a.references + b.references)


def group_table(curves: pa.Table, groups: Groups) -> pa.Table:
    """Return the table of groups of a table of curves. Heat maps contribute only pairs at equal relative depth."""
    records: list[dict[str, Any]] = []
    for label in dict.fromkeys(label for labels in groups.values() for label in labels):
        reference_curves = select(curves, reference=label)
        for measure in distinct(reference_curves, "measure"):
            records += matched(select(reference_curves, measure=measure)).to_pylist()
    ordered = sorted(group_records(records, groups), key=lambda record: record["step"])
    return pa.Table.from_pylist(ordered, schema=SCHEMA)


def write_groups(folder: Path, groups: Groups) -> pa.Table:
    """Compute the table of groups from a run's curves, write it into the run's folder, and return it."""
    table = group_table(read_curves(folder), groups)
    write_table(table, folder / FILE)
    return table


def read_groups(folder: Path) -> pa.Table:
    """Return the table of groups of a run."""
    return read_table(folder / FILE)


def drift(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Return toward which group the model drifted: the nearest group at the last step with values, per measure.

    Args:
        table: the table of groups. The last site of each measure counts.

    Returns:
        measure -> `site`, `step`, `nearest` and `next` (names of groups), `difference` (how much farther the next group
        is, 0 or more), its `stderr`, `p` (Welch's test against each other group, the largest), `references` (number in
        the smallest group), and `differs`: whether p is below 0.05. If not, `nearest` means nothing. Below three
        references in a group, p is NaN. Measures with values of fewer than two groups are left out.

    Example:
        >>> at = {"step": 1, "tokens": 64, "measure": "cka", "site": "embed"}
        >>> at |= {"stderr": 0.01, "freedom": 2.0, "references": 3}
        >>> means = [{**at, "group": name, "dissimilarity": d} for name, d in (("solu", 0.1), ("gelu", 0.4))]
        >>> result = drift(pa.Table.from_pylist(means, schema=SCHEMA))["cka"]
        >>> result["nearest"], round(result["difference"], 3), result["differs"]
        ('solu', 0.3, True)
    """
    by_measure = {}
    for measure in distinct(table, "measure"):
        site = distinct(select(table, measure=measure), "site")[-1]
        records = [
            record
            for record in select(table, measure=measure, site=site).to_pylist()
            if record["group"] in names(table) and math.isfinite(record["dissimilarity"])
        ]
        last = max((record["step"] for record in records), default=0)
        at_last = [record for record in records if record["step"] == last]
        if len(at_last) < 2:
            continue
        nearest, following, *others = sorted(at_last, key=lambda record: record["dissimilarity"])
        p = float(np.max([_welch(nearest, other) for other in (following, *others)]))  # NaN if one is
        by_measure[measure] = {
            "site": site,
            "step": last,
            "nearest": nearest["group"],
            "next": following["group"],
            "difference": following["dissimilarity"] - nearest["dissimilarity"],
            "stderr": math.hypot(nearest["stderr"], following["stderr"]),
            "p": p,
            "references": min(record["references"] for record in at_last),
            "differs": p < LEVEL,
        }
    return by_measure


def _welch(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return the two-sided p value of Welch's test between two groups; NaN for too few references."""

    def side(group: Mapping[str, Any]) -> tuple[float, float, float]:
        count = group["freedom"] + 1  # a standard error with f degrees of freedom is that of f + 1 values
        return group["dissimilarity"], group["stderr"] * math.sqrt(count), count

    return float(stats.ttest_ind_from_stats(*side(a), *side(b), equal_var=False).pvalue)
