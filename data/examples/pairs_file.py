"""Labeled texts or pairs of texts from .tsv, .csv and JSON files."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.examples import Example, label_name, split_name
from data.pack import in_validation
from data.text_files import JSON, json_rows, opened, suffix_of

FIELD_CHARS = 10**7
"""The longest field of a table that is read; a longer one is a quote that is never closed."""


class PairsFile:
    """Examples from files, with one or several splits per file, compressed with gzip or not.

    Columns of a .tsv file are separated by tabs, and quotes are text, as in the files of MNLI and HANS. Columns of a
    .csv file are separated by commas, with quotes as in spreadsheets. The first line names the columns. A .jsonl or
    .ndjson file holds one object per line, a .json file a list of objects. Labels that differ only in how they are
    written (blanks around them, 0 and 0.0, composed and decomposed accents) are one label.

    Args:
        files: Paths by split; `train` is required.
        text: Column of the text, or of the first text of a pair.
        pair: Column of the second text of a pair; None for single texts.
        label: Column of the label.
        subcase: Column that names the kind of an example; None without one.
        by: Columns by split, for a file that holds several splits, one per combination of values in these columns. The
            values, joined by dots, name the split; characters other than letters and digits become _. [heuristic,
            gold_label] makes `lexical_overlap.non_entailment` from HANS.
        val_fraction: Share of the training texts that become `val` if no file is named for it, between 0 and 1. The
            hash of the text decides, so all pairs with one text are on the same side.

    Raises:
        ValueError: If there is no training file, a file is missing or of another kind, a column is missing, or a row
            has no label or text.
    """

    def __init__(
        self,
        files: Mapping[str, str] | None,
        text: str = "premise",
        pair: str | None = "hypothesis",
        label: str = "gold_label",
        subcase: str | None = None,
        by: Mapping[str, Sequence[str]] | None = None,
        val_fraction: float = 0.1,
    ) -> None:
        files = files or {}
        if "train" not in files:
            raise ValueError(
                f"expected a file for the split train, found {dict(files)}: type 'data.source.files={{train: my.tsv}}'"
            )
        if not 0 < val_fraction < 1:
            raise ValueError(f"expected 0 < data.source.val_fraction < 1, found {val_fraction}")
        for split, path in files.items():
            if not Path(path).is_file() or suffix_of(Path(path)) not in (".tsv", ".csv", *JSON):
                content = f"a {suffix_of(Path(path)) or 'nameless'} file" if Path(path).is_file() else "no file"
                if content == "a .parquet file":
                    content += '; write a .csv once: python -c "from pyarrow import csv, parquet; '
                    content += f"csv.write_csv(parquet.read_table('{path}'), '{Path(path).with_suffix('.csv')}')\""
                raise ValueError(
                    f"expected a .tsv, .csv or .jsonl file at data.source.files.{split}={path}, found {content}"
                )
        wrong = sorted(set(by or {}) - set(files) | set(by or {}) & {"train", "val"})
        if wrong:
            raise ValueError(
                f"expected names of files other than train and val as keys of data.source.by, found {wrong}: "
                f"the files are {sorted(files)}"
            )
        self.files = dict(files)
        self.text = text
        self.pair = pair
        self.label = label
        self.subcase = subcase
        self.by = by or {}
        self.val_fraction = val_fraction

    def splits(self) -> dict[str, list[Example]]:
        """Read all files; `train` and `val` come first."""
        splits: dict[str, list[Example]] = {"train": [], "val": []}
        for name, path in self.files.items():
            columns = self.by.get(name, ())
            new_splits: dict[str, list[Example]] = {} if columns else {name: []}
            for row in self._rows(Path(path), columns):
                split = split_name(*(label_name(row[column]) for column in columns)) or name
                new_splits.setdefault(split, []).append(self._example(row))
            repeated = sorted(split for split in new_splits if splits.get(split))
            if repeated:
                raise ValueError(
                    f"expected new splits from data.source.files.{name}={path}, found {repeated} a second time: give "
                    "data.source.by another column"
                )
            splits |= new_splits
        if "val" not in self.files:
            rows = splits["train"]
            for split, is_val in (("train", False), ("val", True)):
                splits[split] = [row for row in rows if in_validation(row.text, self.val_fraction) == is_val]
        return splits

    def _example(self, row: dict[str, Any]) -> Example:
        pair = None if self.pair is None else str(row[self.pair])
        subcase = row.get(self.subcase) if self.subcase else None  # a file with a single kind may lack this column
        label, kind = label_name(row[self.label]), "" if subcase is None else label_name(subcase)
        return Example(str(row[self.text]), pair, label, kind)

    def _rows(self, path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a file after checking that the required columns hold texts, labels and kinds."""
        options = {"text": self.text, "pair": self.pair, "label": self.label}
        needed = [(column, option) for option, column in options.items() if column is not None]
        needed += [(column, "by") for column in columns]
        for place, row in _read(path):
            for column, option in needed:
                if column not in row:
                    raise ValueError(
                        f"expected a column {column!r} in {path}, found {', '.join(row)}: type "
                        f"data.source.{option}=COLUMN"
                    )
                if problem := _problem(row[column], option):
                    content = {"pair": "second text", "by": "value"}.get(option, option)
                    single = ", or type data.source.pair=null for single texts" if option == "pair" else ""
                    raise ValueError(
                        f"expected a {content} in each row, found {problem} {column!r} in {path}, {place}: fill it in "
                        f"or delete the row{single}"
                    )
            yield row


def _problem(value: Any, option: str) -> str | None:
    """Return what is wrong with the value of a column, as words that precede its name; None if nothing is."""
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            return "half a surrogate pair, which is not a character, in the column"
        return "an empty column" if option in ("text", "label") and not value.strip() else None
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if is_number and not (isinstance(value, bool) and option in ("text", "pair")):
        return None
    return f"{json.dumps(value)[:80]} in the column"


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of `FIELD_CHARS`; the limit is that of the whole process, so put it back."""
    before = csv.field_size_limit(FIELD_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row, such as "line 3", and its values by column."""
    if suffix_of(path) in JSON:
        for place, row in json_rows(path):
            if not isinstance(row, dict):
                raise ValueError(f"expected one JSON object per line, found {type(row).__name__} in {path}, {place}")
            yield place, row
        return
    is_tsv = suffix_of(path) == ".tsv"
    with opened(path) as stream, _long_fields():
        quoting = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
        reader = csv.reader(stream, delimiter="\t" if is_tsv else ",", quoting=quoting)
        first_line = 1
        try:
            header = next(reader, [])
            repeated = sorted({column for column in header if header.count(column) > 1})
            if repeated:
                raise ValueError(
                    f"expected distinct columns in line 1 of {path}, found {repeated[0]!r} twice: rename one"
                )
            first_line = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(header):
                    separator = "tab" if is_tsv else "comma" if reader.line_num == first_line else "comma or quote"
                    raise ValueError(
                        f"expected {len(header)} columns as in the first line of {path}, found {len(values)} in line "
                        f"{first_line}: there is a {separator} too many or too few"
                    )
                if values:
                    yield f"line {first_line}", dict(zip(header, values, strict=True))
                first_line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"expected a {suffix_of(path)} table at {path}, found in the row that begins in line {first_line}: "
                f"{error}; is a quote not closed?"
            ) from error
