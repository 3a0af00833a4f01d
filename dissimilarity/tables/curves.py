"""The curves table: every measured value of a run, one row per (step, reference, measure, site pair).

Only this module writes it. Rows are appended to a journal, `curves.jsonl`, and folded from there into `curves.parquet`,
which is replaced atomically, so both can be read at any time, even during the run. If there is a journal, it is
authoritative and the table holds its beginning; without a journal, the table is read.

| column | type | meaning |
| --- | --- | --- |
| step | int64 | updates made before the measurement |
| tokens | int64 | tokens trained on by then |
| reference | string | label of the reference model |
| reference_step | int64 | updates made before the reference, an earlier state of the model; -1 for another model |
| measure | string | label of the measure |
| site_a, site_b | string | site of the model in training, site of the reference |
| value | float64 | the measure's value as the literature has it |
| dissimilarity | float64 | the value mapped so that 0 = identical and larger = more different |
| stderr | float64 | standard error of the value |
| null | float64 | the value with the sequences of one side rearranged so that none meets itself; at heat maps |
| calibrated | float64 | (value - null) / (identical - null): 1 = identical, 0 = as far as the null |
| calibrated_stderr | float64 | standard error of calibrated |
| n_samples | int64 | samples (token positions) behind the value |
| n_units | int64 | units of whole sequences behind stderr |
| influence | list<float> | influence of each unit on the value, for errors of differences; empty without a value |
| probe | string | fingerprint of the probe set and its units; empty if unknown |
| seconds | float64 | seconds that the whole measurement at this step took |
| note | string | empty, or what is missing and why: `skipped: over budget` |

What is missing is NaN in a float column, never a null of Arrow: a column comes out of `to_numpy` as plain floats.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.tables.files import replacing
from dissimilarity.tables.influence import INFLUENCE, short
from dissimilarity.tables.journal import Journal, Mark, as_lines
from dissimilarity.tables.result import AnyTable
from dissimilarity.tables.seal import read_table, write_table

ALERTS = "alerts.jsonl"
"""The journal beside the curves with what alert rules raised."""

PENALTIES = "penalties.jsonl"
"""The journal beside the curves with stitching penalties."""

INTRINSIC = "intrinsic.jsonl"
"""The journal beside the curves with measures of one model alone, at the steps of heat maps: `step, reference, of,
site, measure, value, stderr, n_units`, `of` the model or the reference."""

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("reference", pa.string()),
        ("reference_step", pa.int64()),
        ("measure", pa.string()),
        ("site_a", pa.string()),
        ("site_b", pa.string()),
        ("value", pa.float64()),
        ("dissimilarity", pa.float64()),
        ("stderr", pa.float64()),
        ("null", pa.float64()),
        ("calibrated", pa.float64()),
        ("calibrated_stderr", pa.float64()),
        ("n_samples", pa.int64()),
        ("n_units", pa.int64()),
        ("influence", INFLUENCE),
        ("probe", pa.string()),
        ("seconds", pa.float64()),
        ("note", pa.string()),
    ]
)

OPTIONAL = {
    "reference_step": -1,
    **dict.fromkeys(("stderr", "null", "calibrated", "calibrated_stderr"), math.nan),
    **{"n_units": 0, "influence": (), "probe": "", "note": ""},
}
"""Values of columns that a row may lack."""

JOURNAL, TABLE = "curves.jsonl", "curves.parquet"

_PYTHON_TYPES = {pa.int64(): int, pa.float64(): float, pa.string(): str, INFLUENCE: short}
LITTLE = 2**22
"""Up to this many bytes, a journal is folded whenever it has new rows, which takes some hundredths of a second."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curves:
    """The curves of the run in `folder`, for the one process that writes them."""

    folder: Path

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, and return once they are on disk. All columns of `OPTIONAL` may be missing.

        Raises ValueError for a row that lacks any other column of the schema, or has an unknown one.
        """
        rows = [_as_row(row) for row in rows]
        self._journal().append(rows)

    def truncate(self, step: int) -> None:
        """Drop the rows after a step and an incomplete last row, so that a run can continue from that step.

        Raises ValueError if rows are damaged that the table does not hold.
        """
        journal = self._mended()
        if not journal.path.exists():
            return
        table = read_curves(self.folder)
        remaining = table.filter(pc.field("step") <= step)
        if remaining.num_rows < table.num_rows:
            data, mark = _lines_of(remaining)
            self._cut_table(remaining, mark)
            with replacing(journal.path) as part:
                part.write_bytes(data)

    def return_to(self, mark: Mark, replaced: Sequence[Mapping[str, Any]] = ()) -> None:
        """Drop everything after a mark of the journal, once all rows before it are known to be intact.

        Damaged rows of the journal are restored from the table where it holds them. Without a journal, the rows of the
        table stay.

        Args:
            mark: the mark.
            replaced: the rows of the last step at the mark, where others may have taken their place.

        Raises:
            ValueError: rows are lost or damaged that the table does not hold.
        """
        deleted, journal = not self._path(JOURNAL).exists(), self._journal()
        if deleted:
            return
        try:
            journal.verify(mark)
        except ValueError:
            journal = self._mended()
            if not (replaced and self._put_back(replaced, mark)):
                journal.verify(mark)
        folded = _folded(self._path(TABLE))
        if folded is not None and folded[1].size > mark.size:
            rows = journal.path.read_bytes()[: mark.size].count(b"\n")
            self._cut_table(folded[0].slice(0, rows), mark)
        journal.cut(mark)

    def fold(self) -> Path:
        """Write all rows to `curves.parquet` atomically, and return its path."""
        journal = self._journal()
        table = read_curves(self.folder) if journal.path.exists() else SCHEMA.empty_table()
        _write(table, journal.mark(), self._path(TABLE))
        return self._path(TABLE)

    def fold_if_grown(self) -> bool:
        """Fold if the journal has grown enough since the last fold, and return whether it had.

        A fold writes all rows, but the time of all folds of a run stays proportional to the final number of rows.
        """
        mark, size = _mark_in(self._path(TABLE)), self._journal().mark().size
        grown = mark is None or size - mark.size > (0 if mark.size < LITTLE else mark.size // 4)
        if grown:
            self.fold()
        return grown

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows in the order in which they were appended."""
        journal = self._journal()
        return read_curves(self.folder).to_pylist() if journal.path.exists() else []

    def _path(self, name: str) -> Path:
        return Path(self.folder) / name

    def _journal(self) -> Journal:
        """Return the journal, restored from the table if it is gone or has lost folded rows."""
        journal, table = _journal_in(Path(self.folder)), self._path(TABLE)
        mark = _mark_in(table)
        size = journal.mark().size if journal.path.exists() else -1
        if size < mark.size if mark is not None else (size <= 0 and table.exists()):
            with replacing(journal.path) as part:
                part.write_bytes(_lines_of(_read(table))[0])
            if size >= 0:
                log.warning("%s had lost rows (%d bytes were left): restored from %s", journal.path, size, TABLE)
        return journal

    def _mended(self) -> Journal:
        """Return the journal, its damaged lines restored from the table where possible."""
        journal, folded = self._journal(), _folded(self._path(TABLE))
        try:
            journal.verify(journal.mark())
        except ValueError:
            if folded is None:
                return journal
            data, mark = _lines_of(folded[0])
            if mark == folded[1]:
                with replacing(journal.path) as part:
                    part.write_bytes(data + journal.path.read_bytes()[mark.size :])
                log.warning("%s was damaged: the rows that %s holds were restored from it", journal.path, TABLE)
        return journal

    def _put_back(self, rows: Sequence[Mapping[str, Any]], mark: Mark) -> bool:
        """End the journal with other rows of their step if it then ends at a mark, and return whether it does."""
        try:
            table = read_curves(self.folder).filter(pc.field("step") < rows[0]["step"])
        except ValueError:
            return False
        data, before = _lines_of(table)
        lines, after = as_lines(map(_as_row, rows), before)
        if after == mark:
            self._cut_table(table, before)
            with replacing(self._path(JOURNAL)) as part:
                part.write_bytes(data + lines)
        return after == mark

    def _cut_table(self, table: pa.Table, mark: Mark) -> None:
        """Shorten the table, if there is one, before the journal: a kill in between leaves two that match."""
        if self._path(TABLE).exists():
            _write(table, mark, self._path(TABLE))


def read_curves(path: str | Path) -> pa.Table:
    """Return the curves so far of a run folder or of one of its two files, even while the run is in progress.

    Any other path is read as a table with the same columns.

    Raises ValueError, naming the file, if there are no curves, or they are damaged or have other columns.
    """
    path = Path(path)
    folder = path.parent if path.name in (JOURNAL, TABLE) else path
    if path.suffix == ".parquet" and path.name != TABLE:
        return _checked(read_table(path), path)
    journal, table = _journal_in(folder), folder / TABLE
    if not journal.path.exists():
        if not table.exists():
            raise ValueError(f"no curves in {folder}: expected {TABLE} or {JOURNAL}; give the folder of a tracked run")
        return _read(table)
    # A writer that drops rows replaces the table first, then the journal. A reader in between finds them equal the
    # second time.
    for _ in range(2):
        folded = _folded(table)
        if folded is None:
            break
        try:
            return pa.concat_tables([folded[0], _as_table(journal.read(folded[1], folded[0].num_rows))])
        except ValueError:
            continue
    if folded is not None and journal.mark().size < folded[1].size:
        log.warning("%s has lost rows: those of %s are read instead", journal.path, TABLE)
        return folded[0]
    rows = journal.read()
    return _as_table(rows) if rows or not table.exists() else _read(table)


def checked_rows(rows: Any) -> list[dict[str, Any]]:
    """Return rows that a checkpoint holds, which anyone may have written.

    Raises:
        ValueError: they are no rows of curves.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected rows of curves, found something else")
    try:
        _as_table([_as_row(row) for row in rows])
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"expected rows of curves, found others ({error})") from error
    return rows


def select(table: AnyTable, **equal: Any) -> Any:
    """Return the rows whose columns have these values: `select(table, reference="init", step=512)`."""
    for column, value in equal.items():
        table = table.filter(pc.field(column) == value)
    return table


def rows_with(table: pa.Table, column: str, values: Sequence[Any]) -> pa.Table:
    """Return the rows with any of some values in a column."""
    return table.filter(pc.field(column).isin(pa.array(values, table.schema.field(column).type)))


def distinct(table: AnyTable, column: str) -> list[Any]:
    """Return the values of a column, each once, in order of first appearance."""
    return table[column].unique().to_pylist()


def matched(table: pa.Table) -> pa.Table:
    """Return the rows of one reference that compare sites at equal relative depth, sorted by step.

    Heat maps compare all pairs of sites; these rows are the curves.
    """
    pairs = set(matched_pairs(distinct(table, "site_a"), distinct(table, "site_b")))
    site_pairs = zip(table["site_a"].to_pylist(), table["site_b"].to_pylist(), strict=True)
    return table.filter(pa.array([pair in pairs for pair in site_pairs], pa.bool_())).sort_by("step")


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


def scale(table: pa.Table) -> tuple[float, float]:
    """Return slope (1 or -1) and offset of dissimilarity = offset + slope * value, for records of one measure."""
    value, turned = table["value"].to_numpy(), table["dissimilarity"].to_numpy()
    finite = np.isfinite(value) & np.isfinite(turned)
    if not finite.any():
        return math.nan, math.nan
    value, turned = value[finite], turned[finite]
    falls = np.ptp(turned + value) < np.ptp(turned - value) or (np.ptp(value) == 0 and turned[0] != value[0])
    slope = -1.0 if falls else 1.0
    return slope, float(np.median(turned - slope * value))


def _as_row(row: Mapping[str, Any]) -> dict[str, Any]:
    row = {**OPTIONAL, **row}
    if set(row) != set(SCHEMA.names):
        missing, unknown = set(SCHEMA.names) - set(row), set(row) - set(SCHEMA.names)
        raise ValueError(
            f"a row of curves has the columns {SCHEMA.names}; missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    return {field.name: _PYTHON_TYPES[field.type](row[field.name]) for field in SCHEMA}


def _lines_of(table: pa.Table) -> tuple[bytes, Mark]:
    """Return the lines of the journal that a table was folded from, and the mark after them."""
    return as_lines(map(_as_row, table.to_pylist()))


def _journal_in(folder: Path) -> Journal:
    journal = folder / JOURNAL
    return Journal(journal, f"with the rows of {TABLE}") if (folder / TABLE).exists() else Journal(journal)


def _as_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _write(table: pa.Table, mark: Mark, path: Path) -> None:
    write_table(table, path, {"journal": json.dumps(mark.as_dict())})


def _mark_in(path: Path) -> Mark | None:
    """Return up to where the journal is folded into a table; None if there is no table, or it does not say."""
    try:
        return _mark_of(pq.read_metadata(path).metadata)
    except (OSError, pa.ArrowException):
        return None


def _mark_of(metadata: Mapping[bytes, bytes] | None) -> Mark | None:
    try:
        content = json.loads((metadata or {})[b"journal"])
        return Mark(int(content["size"]), int(content["crc"]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _folded(path: Path) -> tuple[pa.Table, Mark] | None:
    """Return a table and up to where the journal is folded into it; None if it cannot be read, or does not say."""
    try:
        table = read_table(path)
        mark = _mark_of(table.schema.metadata)
        return None if mark is None else (_checked(table, path), mark)
    except ValueError:
        return None


def _read(table: Path) -> pa.Table:
    """Return the table of a run; an error says what to do."""
    try:
        return _checked(read_table(table), table)
    except ValueError as error:
        rest = f"with the rows of {JOURNAL}" if _journal_in(table.parent).mark().size else "without its rows"
        raise ValueError(f"{error}; put a copy of it back, or delete it to continue {rest}") from error


def _checked(table: pa.Table, path: Path) -> pa.Table:
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{path} is no curves table: expected columns {SCHEMA.names}, found {table.schema.names}")
    return table.replace_schema_metadata(None)
