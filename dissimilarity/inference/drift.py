"""Reference groups: toward which group of references a model drifts, step by step, from the curves table alone.

The result is a separate table beside the curves, `groups.parquet`. Its records are means over references, while every
record of the curves remains one measurement of one reference.

| column | type | meaning |
| --- | --- | --- |
| step, tokens | int64 | as in the curves |
| group | string | a group's name, or `a-b` for the difference of two groups |
| measure, site | string | as in the curves; the site of the model in training, paired at equal relative depth |
| dissimilarity | float64 | mean over the group's references; for `a-b` that of a minus that of b: < 0 = nearer to a |
| stderr | float64 | standard error of the dissimilarity |
| freedom | float64 | degrees of freedom of stderr; NaN below three references per group |
| low, high | float64 | 95% interval over references; NaN below three references per group |
| references | int64 | number of references behind it |

**Standard error.** The references of a group are a sample of their kind: n values of variance S^2. Their mean also has
an error s from the probe sequences, which all references share, so it does not shrink with n:
stderr^2 = S^2 / n + s^2. s follows from the influences of the sequences, averaged over references; that of a difference
follows from the difference of these averages, so what two groups have in common cancels:
stderr^2 = S_a^2 / n_a + S_b^2 / n_b + s_ab^2. Records without influences have the mean of their own errors as s, and
s_ab^2 = s_a^2 + s_b^2, which is too large rather than too small. For a single reference S is unknown, and stderr is the
error of that reference, not of its kind.

**Intervals** are Student's, with Satterthwaite's degrees of freedom: S^2 / n has n - 1, s^2 has one fewer than there
are units of sequences (without influences, as many as one likes); a difference is Welch's. They cover other references
of these kinds, for this one model and its text. Three references per group are the fewest that say something about
their kind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import special

from dissimilarity.inference.coverage import FEWEST_REFERENCES
from dissimilarity.inference.paired import paired_difference
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
LEVEL = 0.05
LARGE = 1e6
"""Degrees of freedom that stand for any number of them."""

Groups = Mapping[str, Sequence[str]]


def between(a: str, b: str) -> str:
    """Return the name of the difference of two groups.

    Examples:
        >>> between("solu", "gelu")
        'solu-gelu'
    """
    return f"{a}-{b}"


def names(table: pa.Table) -> list[str]:
    """Return the groups of a table in order, without their differences. A group's name contains no `-`."""
    return [name for name in distinct(table, "group") if "-" not in name]


def group_records(records: Iterable[Mapping[str, Any]], groups: Groups) -> list[dict[str, Any]]:
    """Return the records of groups and of the differences of any two, from records of curves at matched pairs of sites.

    Args:
        records: records of any steps, references and measures. Records without a value are ignored.
        groups: name -> labels of its references.

    Examples:
        >>> at = {"step": 1, "tokens": 64, "measure": "cka", "site_a": "embed", "stderr": 0.0}
        >>> curves = [{**at, "reference": label, "dissimilarity": d} for label, d in (("s0", 0.1), ("s1", 0.3))]
        >>> [record["dissimilarity"] for record in group_records(curves, {"solu": ["s0", "s1"]})]
        [0.2]
    """
    by_site: dict[tuple[int, int, str, str], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        rows = by_site.setdefault((record["step"], record["tokens"], record["measure"], record["site_a"]), {})
        if math.isfinite(record["dissimilarity"]):
            rows[record["reference"]] = record
    group_means = []
    for (step, tokens, measure, site), rows in by_site.items():
        means = {name: _mean([rows[label] for label in labels if label in rows]) for name, labels in groups.items()}
        for a, b in combinations(groups, 2):
            means[between(a, b)] = _difference(means[a], means[b])
        for name, mean in means.items():
            low, high = mean.interval
            row = (step, tokens, name, measure, site, mean.value, mean.stderr, mean.freedom, low, high, mean.references)
            group_means.append(dict(zip(SCHEMA.names, row, strict=True)))
    return group_means


class _Mean(NamedTuple):
    """A mean over references or a difference of two.

    Attributes:
        value: the mean.
        references: number of references behind it.
        spread: variance of the mean over references and its degrees of freedom, by group.
        probe: variance of the mean over probe text and its degrees of freedom.
        influence: influence of each unit of probe text on the mean; empty if unknown.
    """

    value: float
    references: int
    spread: tuple[tuple[float, float], ...]
    probe: tuple[float, float]
    influence: NDArray[np.float64]

    @property
    def stderr(self) -> float:
        """Return the standard error."""
        return math.sqrt(sum(variance for variance, _ in (*self.spread, self.probe)))

    @property
    def freedom(self) -> float:
        """Return Satterthwaite's degrees of freedom; NaN below three references in a group."""
        if min(freedom for _, freedom in self.spread) < FEWEST_REFERENCES - 1:
            return math.nan
        uncertainty = sum(variance**2 / freedom for variance, freedom in (*self.spread, self.probe))
        return min(self.stderr**4 / uncertainty, LARGE) if uncertainty else LARGE

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval."""
        half = float(special.stdtrit(self.freedom, 1 - LEVEL / 2)) * self.stderr
        return self.value - half, self.value + half


UNKNOWN = np.empty(0)
"""Influences of a record that has none."""


def _mean(rows: Sequence[Mapping[str, Any]]) -> _Mean:
    """Return the mean over the records of references."""
    if not rows:
        return _Mean(math.nan, 0, ((math.nan, 0.0),), (math.nan, LARGE), UNKNOWN)
    values, count = [row["dissimilarity"] for row in rows], len(rows)
    spread = variance(values) / count if count > 1 else 0.0
    influences = [row.get("influence") or () for row in rows]
    units = {len(influence) for influence in influences}
    # The sign of the influences, which are on the value, is the same in all records of a measure.
    influence = np.mean(influences, 0) if len(units) == 1 else UNKNOWN
    errors = [row["stderr"] for row in rows if math.isfinite(row["stderr"])]
    probe = _probe_variance(influence) or (fmean(errors) ** 2 if errors else 0.0 if spread else math.nan, LARGE)
    return _Mean(fmean(values), count, ((spread, count - 1.0),), probe, influence)


def _difference(a: _Mean, b: _Mean) -> _Mean:
    """Return the difference of two means on one probe set."""
    is_paired = len(a.influence) == len(b.influence)
    influence = a.influence - b.influence if is_paired else UNKNOWN
    unpaired = a.probe[0] + b.probe[0], LARGE
    probe = _probe_variance(influence) or unpaired
    return _Mean(a.value - b.value, a.references + b.references, (*a.spread, *b.spread), probe, influence)


def _probe_variance(influence: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the variance over probe text and its degrees of freedom; None if influences are unknown."""
    error = paired_difference(0.0, influence)
    return None if math.isnan(error.stderr) else (error.stderr**2, error.n_units - 1.0)


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

    Examples:
        >>> at = {"step": 1, "tokens": 64, "measure": "cka", "site": "embed"}
        >>> at |= {"stderr": 0.01, "freedom": 2.0, "references": 3}
        >>> means = {"solu": 0.1, "gelu": 0.4, "solu-gelu": -0.3}
        >>> records = [{**at, "group": name, "dissimilarity": mean} for name, mean in means.items()]
        >>> result = drift(pa.Table.from_pylist(records, schema=SCHEMA))["cka"]
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
        by_name = {row["group"]: row for row in select(table, measure=measure, site=site, step=last).to_pylist()}
        differences = [_between(by_name, nearest["group"], other["group"]) for other in (following, *others)]
        p = float(np.max([_p_value(difference) for difference in differences]))  # NaN if one is
        by_measure[measure] = {
            "site": site,
            "step": last,
            "nearest": nearest["group"],
            "next": following["group"],
            "difference": following["dissimilarity"] - nearest["dissimilarity"],
            "stderr": differences[0]["stderr"],
            "p": p,
            "references": min(record["references"] for record in at_last),
            "differs": p < LEVEL,
        }
    return by_measure


def _between(records: Mapping[str, Mapping[str, Any]], a: str, b: str) -> Mapping[str, Any]:
    """Return the record of the difference of two groups, in whichever order the table has it."""
    return records[between(a, b)] if between(a, b) in records else records[between(b, a)]


def _p_value(difference: Mapping[str, Any]) -> float:
    """Return the two-sided p value of no difference; NaN for too few references."""
    if math.isnan(difference["freedom"]) or not difference["stderr"]:
        return math.nan
    return float(2 * special.stdtr(difference["freedom"], -abs(difference["dissimilarity"]) / difference["stderr"]))
