"""The matched layers of a comparison as plain rows, and the notes beside them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dissimilarity.capture.site_names import describe, site_name
from dissimilarity.cli.result import Comparison
from dissimilarity.comparison.missing import BETWEEN, joined
from dissimilarity.comparison.result import shown_columns, with_ends
from dissimilarity.probe.alignment import Alignment

Rows = list[dict[str, Any]]

COLUMNS = ("measure", "site_a", "site_b", "value", "low", "high", "null", "p", "calibrated", "dissimilarity", "note")
NUMBERS = ("relative_error", "noise", "cosine", "largest")
"""Columns of models that are also compared element by element; see `SiteDifference`."""


def matched_rows(result: Comparison) -> Rows:
    """Return one row per measure and matched pair of sites, with plain numbers and the notes of that row alone."""
    errors = {} if result.differences is None else {(d.site_a, d.site_b): d for d in result.differences.sites}
    rows = []
    for measure in result.measures:
        own = result.at_matched(measure)
        shared = _shared(own)
        for row in own:
            difference = errors.get((row["site_a"], row["site_b"]))
            numbers = {key: getattr(difference, key, math.nan) for key in NUMBERS} if errors else {}
            note = joined(*(part for part in _parts(row) if part not in shared))
            rows.append({**{name: with_ends(row)[name] for name in COLUMNS}, "note": note, **numbers})
    return rows


def notes_of(result: Comparison) -> list[str]:
    """Return what holds for all rows or several sites.

    It says that tokens or widths differ, and, with its measures, what all rows of a measure say.
    """
    measures: dict[str, list[str]] = {}
    for measure in result.measures:
        if note := joined(*_shared(result.at_matched(measure))):
            measures.setdefault(note, []).append(measure.label)
    notes = [
        note if note.startswith(labels[0]) else f"{', '.join(labels)}: {note}" for note, labels in measures.items()
    ]
    if result.differences is not None:
        compared = {(site.site_a, site.site_b) for site in result.differences.sites}
        if others := [pair for pair in result.matched if pair not in compared]:
            a, b = (describe(sites) for sites in zip(*others, strict=True))
            notes.insert(0, f"{site_name(a, b)}: widths differ, so these are not compared element by element")
    if not isinstance(result.probe.inputs, Alignment):
        return notes
    a, b = result.labels
    why = f"the tokenizers of {a} and {b} differ, so they are compared at the ends of words, and not element by element"
    return [why, *notes]


def notes_by_site(result: Comparison) -> list[str]:
    """Return what holds for only some rows, with their sites unless it names these itself."""
    sites: dict[str, dict[str, None]] = {}
    for row in matched_rows(result):
        if row["note"]:
            sites.setdefault(row["note"], {})[site_name(row["site_a"], row["site_b"])] = None
    return [note if all(map(note.count, names)) else f"{describe(names)}: {note}" for note, names in sites.items()]


def latex_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table for a paper."""
    return [*shown_columns(rows), *(name for name in NUMBERS if rows and name in rows[0])]


def _parts(row: Mapping[str, Any]) -> list[str]:
    """Return the notes of a row; each but the first begins with the label of its measure."""
    return re.split(f"{BETWEEN}(?={re.escape(row['measure'])} )", row["note"])


def _shared(rows: Rows) -> list[str]:
    """Return the notes that every row of a measure has, in order."""
    first, *others = [_parts(row) for row in rows] or [[]]
    return [part for part in first if part and all(part in other for other in others)]
