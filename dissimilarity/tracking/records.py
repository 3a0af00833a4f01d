"""Rows of a tick that have no value, and those of several processes as one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dissimilarity.comparison.evaluate import pairs_of
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.agreement import gathered
from dissimilarity.moments.cross import SitePair

OVER_BUDGET = "skipped: over track.budget"

NOTHING = dict.fromkeys(("value", "dissimilarity", "stderr", "null", "calibrated"), math.nan)


def without_value(
    label: str, measures: Iterable[Measure], pairs: Sequence[SitePair], note: str
) -> list[dict[str, Any]]:
    """The rows of one reference, one per curve, with a note that says why there is no value."""
    return [
        {"reference": label, "measure": m.label, "site_a": a, "site_b": b, **NOTHING, "n_samples": 0, "note": note}
        for m in measures
        for a, b in pairs_of(m, pairs)
    ]


def agreed(rows: list[dict[str, Any]], sync: bool) -> list[dict[str, Any]]:
    """The rows of this process; a value that another process could not compute has that one's note in its place."""
    notes = {_curve(row): row["note"] for row in rows if math.isnan(row["value"])}
    elsewhere: dict[tuple[str, str, str], str] = {}
    for rank, theirs in enumerate(gathered(notes, sync)):
        elsewhere |= {curve: f"process {rank}: {note}" for curve, note in theirs.items() if curve not in elsewhere}
    for row in rows:
        if not math.isnan(row["value"]) and _curve(row) in elsewhere:
            row |= NOTHING | {"note": elsewhere[_curve(row)]}
    return rows


def described(error: Exception) -> str:
    """An error as a note."""
    return f"{type(error).__name__}: {error}"


def advice(note: str) -> str:
    """What to do about a row without a value, where the note does not say it."""
    return " (more may be; raise it, up to 1, to measure every tick)" if note == OVER_BUDGET else ""


def _curve(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["measure"], row["site_a"], row["site_b"]
