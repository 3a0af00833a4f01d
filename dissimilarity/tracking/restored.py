"""Records that a checkpoint holds, which anyone may have written."""

from typing import Any

from dissimilarity.loading.untrusted import CONTROLS, SCALARS
from dissimilarity.tables.curves import checked_rows

NAMES = {
    "curves": ("reference", "measure", "site_a", "site_b"),
    "intrinsic": ("reference", "of", "site", "measure"),
    "alerts": ("rule", "reference", "measure", "site", "text"),
}
"""Texts that the records of each table have, and that a terminal shows."""
NUMBERS = {"curves": (), "intrinsic": ("value",), "alerts": ("value", "before", "p")}


def restored(table: str, records: Any) -> list[dict[str, Any]]:
    """Return the records of a table.

    Args:
        table: `curves`, `intrinsic` or `alerts`.
        records: what the checkpoint has in their place.

    Raises:
        ValueError: they are no records of this table.

    Examples:
        >>> row = {"step": 8, "reference": "init", "of": "model", "site": "embed", "measure": "rankme", "value": 9.5}
        >>> restored("intrinsic", [row]) == [row]
        True
    """
    if table == "curves":
        checked_rows(records)
    if not isinstance(records, list) or not all(_is_record(table, record) for record in records):
        raise ValueError(f"expected rows of {table}, found something else")
    return records


def _is_record(table: str, record: Any) -> bool:
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and 0 <= record["step"] < 2**63
        and all(_is_name(record.get(key)) for key in NAMES[table])
        and all(isinstance(record.get(key), int | float) for key in NUMBERS[table])
        and (table == "curves" or all(isinstance(value, SCALARS) for value in record.values()))
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and CONTROLS.search(value) is None
