"""The tables of benchmarks as one file, and what became slower since another one."""

import json
import re
from pathlib import Path

Tables = list[list[dict[str, str]]]

CHANGE = 0.1
"""Relative change below which two runs are the same: the spread of quiet runs on one machine."""


def write(path: Path, machine: str, tables: dict[str, Tables]) -> None:
    """Write the tables of benchmarks by name, with the machine that they were measured on."""
    path.write_text(json.dumps({"machine": machine, "tables": tables}, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[str, dict[str, Tables]]:
    """Return the machine and the tables of a file of ``write``.

    Raises:
        ValueError: the file is none of these.
    """
    try:
        content = json.loads(path.read_text())
        return content["machine"], content["tables"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a file of `python -m benchmarks NAME --json FILE`, found none") from error


def changes(before: dict[str, Tables], now: dict[str, Tables]) -> list[dict[str, str]]:
    """Return a row per figure that changed by more than `CHANGE`, largest first; figures are matched by row and column.

    >>> then, since = ([[{"work": "a tick", "times the passes": f"{x} (1 - 9)"}]] for x in (1.5, 3.0))
    >>> changes({"layers": then}, {"layers": since})[0]["change"]
    '+100%'
    """
    rows = []
    for name in before.keys() & now.keys():
        for old_table, new_table in zip(before[name], now[name], strict=False):
            known = {_key(row): row for row in old_table}
            for row in new_table:
                old = known.get(_key(row), {})
                for column in row.keys() & old.keys():
                    then, since = _number(old[column]), _number(row[column])
                    if then and since and abs(since / then - 1) > CHANGE:
                        figures = {"before": old[column], "now": row[column], "change": f"{since / then - 1:+.0%}"}
                        rows.append({"benchmark": name, "row": _key(row), "figure": column, **figures})
    return sorted(rows, key=lambda row: -abs(float(row["change"].rstrip("%"))))


def _key(row: dict[str, str]) -> str:
    """Return what names a row: its cells before the first figure."""
    cells = list(row.values())
    count = next((index for index, cell in enumerate(cells) if index and _number(cell) is not None), len(cells))
    return ", ".join(cells[:count])


def _number(cell: str) -> float | None:
    """Return the number that a cell begins with; None if it is none."""
    match = re.match(r"-?[\d,]*\.?\d+(e-?\d+)?", cell)
    return float(match.group().replace(",", "")) if match else None
