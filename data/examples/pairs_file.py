"""Labeled texts or pairs of texts from .tsv, .csv and .jsonl files."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.examples import Example, split_name
from data.pack import in_validation


class PairsFile:
    """Examples from files, with one or several splits per file.

    Columns of a .tsv file are separated by tabs, and quotes are text, as in the files of MNLI and HANS. Columns of a
    .csv file are separated by commas, with quotes as in spreadsheets. The first line names the columns. A .jsonl file
    holds one object per line.

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
            if not Path(path).is_file() or Path(path).suffix not in (".tsv", ".csv", ".jsonl"):
                content = f"a {Path(path).suffix or 'nameless'} file" if Path(path).is_file() else "no file"
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
                split = split_name(*(row[column] for column in columns)) or name
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

    def _example(self, row: dict[str, str]) -> Example:
        pair = None if self.pair is None else row[self.pair]
        return Example(row[self.text], pair, row[self.label], row[self.subcase] if self.subcase else "")

    def _rows(self, path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield the rows of a file after checking that they have the required columns, and a text and a label."""
        options = {"text": self.text, "pair": self.pair, "label": self.label}
        needed = {column: option for option, column in options.items() if column is not None}
        # A file with a single kind of examples may lack this column.
        optional = {self.subcase} if self.subcase else set()
        for number, row in _read(path):
            missing = [column for column in (*needed, *columns) if column not in row]
            if missing:
                option = needed.get(missing[0], "by")
                raise ValueError(
                    f"expected a column {missing[0]!r} in {path}, found {', '.join(row)}: type "
                    f"data.source.{option}=COLUMN"
                )
            blank = [column for column in (self.text, self.label) if not row[column].strip()]
            if blank:
                raise ValueError(
                    f"expected a {needed[blank[0]]} in each row, found an empty column {blank[0]!r} in {path}, line "
                    f"{number}: fill it in or delete the row"
                )
            yield dict.fromkeys(optional, "") | row


def _read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) with all values as text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix == ".jsonl":
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield number, {str(key): str(value) for key, value in _object(path, number, line).items()}
                return
            quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
            reader = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=quoting)
            header = next(reader, [])
            for values in reader:
                if values and len(values) != len(header):
                    raise ValueError(
                        f"expected {len(header)} columns as in the first line of {path}, found {len(values)} in line "
                        f"{reader.line_num}: there is a tab or comma too many or too few"
                    )
                if values:
                    yield reader.line_num, dict(zip(header, values, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected a {path.suffix} table in UTF-8 at {path}, found: {error}") from error


def _object(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected one JSON object per line in {path}, found in line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected one JSON object per line, found {type(row).__name__} in {path}, line {number}")
    return row
