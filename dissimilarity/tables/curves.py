"""The curves table: every value that was measured in a run, one row a (step, reference, measure, site pair).

This is the one place that writes it. Rows go to an append-only journal, `curves.jsonl`, and are folded from there into
`curves.parquet`, which is replaced in one step: at any moment both can be read, also while the run goes on. Where there
is a journal it is the truth, and the table stands for its beginning; a run folder without one is read from the table.

| column | type | meaning |
| --- | --- | --- |
| step | int64 | updates made before the measurement |
| tokens | int64 | tokens trained on by then |
| reference | string | label of the reference model |
| measure | string | label of the measure |
| site_a, site_b | string | site of the model in training, site of the reference |
| value | float64 | the measure's value as the literature has it |
| dissimilarity | float64 | the value turned so that 0 = the same and up = more different |
| stderr | float64 | standard error of the value |
| null | float64 | the value with the sequences of one side shifted so that none meets itself |
| calibrated | float64 | (value - null) / (identical - null): 1 = identical, 0 = as far as the null |
| n_samples | int64 | samples (token positions) behind the value |
| seconds | float64 | seconds that the whole measurement at this step took |
| note | string | empty, or why the value is missing: `skipped: over track.budget` |

What is missing is NaN in a float column, never a null of Arrow: a column comes out of `to_numpy` as plain floats.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dissimilarity.capture.sites import matched_pairs
from dissimilarity.tables.journal import Journal, replacing

FIRST_COMPONENTS = "first_components.jsonl"
"""The journal beside the curves with the sites of each heat map: `step, reference, of, site, share`, the share of the
variance in the first principal component, `of` the model or the reference."""

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("reference", pa.string()),
        ("measure", pa.string()),
        ("site_a", pa.string()),
        ("site_b", pa.string()),
        ("value", pa.float64()),
        ("dissimilarity", pa.float64()),
        ("stderr", pa.float64()),
        ("null", pa.float64()),
        ("calibrated", pa.float64()),
        ("n_samples", pa.int64()),
        ("seconds", pa.float64()),
        ("note", pa.string()),
    ]
)

JOURNAL, TABLE = "curves.jsonl", "curves.parquet"

_PYTHON_TYPES = {pa.int64(): int, pa.float64(): float, pa.string(): str}
_TAIL = 4096


@dataclass(frozen=True)
class Curves:
    """The curves of the run in `folder`, for the one process that writes them."""

    folder: Path

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, on disk on return. `stderr`, `null`, `calibrated` and `note` may be left out.

        Raises ValueError for a row without another column of the schema, or with one that it does not have.
        """
        rows = [_as_row(row) for row in rows]
        self._journal().append(rows)

    def truncate(self, step: int) -> None:
        """Drop the rows after a step, and what an interrupted write left: what a resume at that step starts from."""
        self._journal().truncate(step)

    def fold(self) -> Path:
        """Write all rows to `curves.parquet`, replacing it in one step, and return its path."""
        journal, path = self._journal(), Path(self.folder) / TABLE
        data = journal.whole_bytes()
        table = read_curves(self.folder) if journal.path.exists() else SCHEMA.empty_table()
        mark = {"journal_bytes": str(len(data)), "journal_tail": _fingerprint(data, len(data))}
        with replacing(path) as part:
            pq.write_table(table.replace_schema_metadata(mark), part)
        return path

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, in the order in which they were appended; none before the first."""
        journal = self._journal()
        return read_curves(self.folder).to_pylist() if journal.path.exists() else []

    def _journal(self) -> Journal:
        """The journal; written anew from the table where a run folder came without it, so that no row is lost."""
        journal = Journal(Path(self.folder) / JOURNAL)
        if not journal.path.exists() and (Path(self.folder) / TABLE).exists():
            with replacing(journal.path) as part:
                Journal(part).append(read_curves(self.folder).to_pylist())
                part.touch()
        return journal


def read_curves(path: str | Path) -> pa.Table:
    """Return the curves of a run folder, or of one of its two files, as of now; also while the run goes on.

    Any other path is read as a table of the same columns.

    Raises ValueError, naming the file, if there are no curves there, or what is there is broken or has other columns.
    """
    path = Path(path)
    folder = path.parent if path.name in (JOURNAL, TABLE) else path
    if path.suffix == ".parquet" and path.name != TABLE:
        return _read_parquet(path)
    journal = Journal(folder / JOURNAL)
    if not journal.path.exists():
        if not (folder / TABLE).exists():
            raise ValueError(f"no curves in {folder}: expected {TABLE} or {JOURNAL}; give the folder of a tracked run")
        return _read_parquet(folder / TABLE)
    # The table is read before the journal: what is folded in between is then read twice at worst, not missed.
    folded = _folded(folder / TABLE)
    data = journal.whole_bytes()
    if folded is not None:
        mark = folded.schema.metadata or {}
        size = int(mark.get(b"journal_bytes", b"-1"))
        if 0 < size <= len(data) and _fingerprint(data, size).encode() == mark.get(b"journal_tail"):
            new = pa.Table.from_pylist(journal.parse(data, size), schema=SCHEMA)
            return pa.concat_tables([folded.replace_schema_metadata(None), new])
    return pa.Table.from_pylist(journal.parse(data), schema=SCHEMA)


def select(table: pa.Table, **equal: Any) -> pa.Table:
    """Return the rows whose columns have these values: `select(table, reference="init", step=512)`."""
    for column, value in equal.items():
        table = table.filter(pc.field(column) == value)
    return table


def distinct(table: pa.Table, column: str) -> list[Any]:
    """Return the values of a column, each once, in order of first appearance."""
    return table[column].unique().to_pylist()


def matched(table: pa.Table) -> pa.Table:
    """Return the rows of one reference that compare sites at equal relative depth, sorted by step.

    Heat maps compare all pairs of sites; these rows are the curves.
    """
    pairs = set(matched_pairs(distinct(table, "site_a"), distinct(table, "site_b")))
    found = zip(table["site_a"].to_pylist(), table["site_b"].to_pylist(), strict=True)
    return table.filter(pa.array([pair in pairs for pair in found], pa.bool_())).sort_by("step")


def heatmap_steps(table: pa.Table) -> list[int]:
    """Return the steps at which a table of one reference and one measure has all pairs of sites."""
    all_pairs = len(distinct(table, "site_a")) * len(distinct(table, "site_b"))
    rows = Counter(table["step"].to_pylist())
    return sorted(step for step, count in rows.items() if count == all_pairs > 1)


def grid(table: pa.Table, column: str, sites_a: list[str], sites_b: list[str]) -> np.ndarray:
    """Return a column as (site_a, site_b), NaN where the table, of one reference, measure and step, has no row."""
    values = np.full((len(sites_a), len(sites_b)), math.nan)
    for a, b, value in zip(*(table[name].to_pylist() for name in ("site_a", "site_b", column)), strict=True):
        values[sites_a.index(a), sites_b.index(b)] = value
    return values


def _as_row(row: Mapping[str, Any]) -> dict[str, Any]:
    row = {**dict.fromkeys(("stderr", "null", "calibrated"), math.nan), "note": "", **row}
    if set(row) != set(SCHEMA.names):
        missing, unknown = set(SCHEMA.names) - set(row), set(row) - set(SCHEMA.names)
        raise ValueError(
            f"a row of curves has the columns {SCHEMA.names}; missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    return {field.name: _PYTHON_TYPES[field.type](row[field.name]) for field in SCHEMA}


def _fingerprint(data: bytes, size: int) -> str:
    """A hash of the end of the first `size` bytes; rows carry times to the last bit, so no other end is alike."""
    return hashlib.sha256(data[max(0, size - _TAIL) : size]).hexdigest()


def _folded(path: Path) -> pa.Table | None:
    """The table where it can be read, else None: the journal has all that it has."""
    try:
        return _read_parquet(path)
    except ValueError:
        return None


def _read_parquet(path: Path) -> pa.Table:
    try:
        # Opened once: `pq.read_table` opens twice, and would mix two tables if one replaced the other in between.
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"cannot read curves from {path}: {error}") from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{path} is no curves table: expected columns {SCHEMA.names}, found {table.schema.names}")
    return table
