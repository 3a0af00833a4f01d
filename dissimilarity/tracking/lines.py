"""The curves of a training as charts of loggers: per reference and measure, one line per site."""

import math

import pyarrow as pa

from dissimilarity.tables.curves import distinct, matched, select
from dissimilarity.tracking.logger_keys import site_key

Line = tuple[list[int], list[float]]
"""Steps, and the dissimilarity at each."""

Lines = dict[tuple[str, str], dict[str, Line]]
"""Reference and measure -> site -> line."""


def lines_of(curves: pa.Table) -> Lines:
    """Return the lines of a table of curves, at sites of equal depth, without values that could not be computed.

    Examples:
        >>> row = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed"}
        >>> rows = [{**row, "step": step, "dissimilarity": step / 10} for step in (1, 2)]
        >>> lines_of(pa.Table.from_pylist(rows))
        {('init', 'cka'): {'embed': ([1, 2], [0.1, 0.2])}}
    """
    columns = curves.select(["step", "reference", "measure", "site_a", "site_b", "dissimilarity"])
    lines: Lines = {}
    for reference in distinct(columns, "reference"):
        of_reference = select(columns, reference=reference)
        for measure in distinct(of_reference, "measure"):
            sites: dict[str, Line] = {}
            for row in matched(select(of_reference, measure=measure)).sort_by("step").to_pylist():
                if math.isfinite(row["dissimilarity"]):
                    steps, values = sites.setdefault(site_key(row["site_a"], row["site_b"]), ([], []))
                    steps.append(row["step"])
                    values.append(row["dissimilarity"])
            if sites:
                lines[reference, measure] = sites
    return lines
