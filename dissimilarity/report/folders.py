"""What a folder holds: a run, the results of a study or of a comparison, or something else."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa

from dissimilarity.inference.drift import FILE as GROUPS
from dissimilarity.loading.untrusted import CONTROLS, read_json, read_yaml, shown, text_of
from dissimilarity.tables import colored_text
from dissimilarity.tables.curves import ALERTS, INTRINSIC, JOURNAL, PENALTIES, TABLE, read_curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tables.seal import read_table

Kind = Literal["run", "results", "unknown"]
Losses = dict[str, tuple[list[int], list[float]]]
Content = TypeVar("Content")

RUN_FILES = (JOURNAL, TABLE, "metrics.jsonl", "metrics.csv", "tokenizer.json")
RESULT_FILES = ("table.parquet", "summary.md")
IMAGES = {".svg": (b"<?xml", b"<svg"), ".png": (b"\x89PNG\r\n",)}
"""Kinds of pictures that a page can show, and how their files begin."""


@dataclass(frozen=True)
class Folder:
    """What can be read of a folder.

    Attributes:
        path: the folder.
        kind: what it holds.
        curves: the curves of a run, without influences; None if it has none.
        table: the table of a study or comparison; None if it has none.
        intrinsic: records of measures of one model alone.
        losses: (steps, values) by name.
        alerts: what rules raised.
        penalties: records of stitching penalties.
        reference_groups: records of the distances to groups of references.
        summary: summary.json of a run, or of a comparison.
        provenance: provenance.json.
        config: config.yaml as plain values.
        texts: the texts of summary.md and config.yaml, by file name.
        colored: texts that are colored by influence, as `colored_text` returns them.
        figures: pictures by file name.
        problems: what could not be read, and why.
    """

    path: Path
    kind: Kind
    curves: pa.Table | None = None
    table: pa.Table | None = None
    intrinsic: list[dict[str, Any]] = field(default_factory=list)
    losses: Losses = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    penalties: list[dict[str, Any]] = field(default_factory=list)
    reference_groups: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    colored: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.path.resolve().name


def kind_of(path: Path) -> Kind:
    """Return what a folder holds, from the names of its files."""
    if any((path / name).is_file() for name in RUN_FILES):
        return "run"
    if any((path / name).is_file() for name in RESULT_FILES):
        return "results"
    is_run = (path / "config.yaml").is_file() and (path / "provenance.json").is_file()
    return "run" if is_run else "unknown"


def found_in(paths: Sequence[Path], advice: str = "give a folder of a run, such as runs/a") -> list[Path]:
    """Return the folders to show: those given, and in place of one that holds nothing itself, the runs inside it.

    Args:
        paths: the folders.
        advice: what to give in place of one that does not exist.

    Raises:
        ValueError: no folder is given, or one does not exist.
    """
    if not paths:
        raise ValueError("no folder to report on; give folders of runs, such as runs/a")
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise ValueError(f"{path} {what}; {advice}")
        inside = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        runs = [entry for entry in inside if kind_of(entry) == "run"] if kind_of(path) == "unknown" else []
        folders += runs or [path]
    return list(dict.fromkeys(folders))


def read_folder(path: Path) -> Folder:
    """Read what a folder holds; what is missing is empty, and what is damaged is among its `problems`."""
    kind, problems = kind_of(path), []

    def read(name: str, how: Callable[[Path], Content], default: Content) -> Content:
        try:
            return how(path / name) if (path / name).exists() else default
        except (ValueError, OSError) as error:
            if str(error) not in problems:
                problems.append(str(error))
            return default

    has_curves = kind == "run" and any((path / name).exists() for name in (JOURNAL, TABLE))
    return Folder(
        path,
        kind,
        curves=read("", _curves, None) if has_curves else None,
        table=read("table.parquet", read_table, None) if kind == "results" else None,
        intrinsic=read(INTRINSIC, _rows, []),
        losses=read("metrics.jsonl", _losses_of_journal, {}) or read("metrics.csv", _losses_of_table, {}),
        alerts=read(ALERTS, _rows, []),
        penalties=read(PENALTIES, _rows, []),
        reference_groups=read(GROUPS, lambda path: read_table(path).to_pylist(), []),
        summary=read("summary.json", read_json, {}),
        provenance=read("provenance.json", read_json, {}),
        config=read("config.yaml", read_yaml, {}),
        texts={name: text for name in ("summary.md", "config.yaml") if (text := read(name, _text, ""))},
        colored=read(colored_text.FILE, _colored, []),
        figures=_figures(path / "figures") if kind == "results" else {},
        problems=problems,
    )


def _curves(path: Path) -> pa.Table:
    return read_curves(path).drop_columns(["influence"])


def _colored(path: Path) -> list[dict[str, Any]]:
    """Return texts in the form of `colored_text`.

    Raises:
        ValueError: The file has another form.
    """
    texts = read_json(path).get("texts")
    try:
        return [
            {
                "title": str(text["title"]),
                "sequences": [
                    {
                        "sequence": int(sequence["sequence"]),
                        "influence": float(sequence["influence"]),
                        "pieces": [(str(piece), None if v is None else float(v)) for piece, v in sequence["pieces"]],
                    }
                    for sequence in text["sequences"]
                ],
            }
            for text in texts or ()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected texts with influences, found another form ({error})") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    return Journal(path).read()


def _text(path: Path) -> str:
    return CONTROLS.sub("", text_of(path, path.suffix))


def _losses_of_journal(path: Path) -> Losses:
    return _losses(path, Journal(path).read())


def _losses_of_table(path: Path) -> Losses:
    with path.open(newline="", encoding="utf-8") as file:
        return _losses(path, [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)])


def _losses(path: Path, rows: Sequence[Mapping[str, Any]]) -> Losses:
    """Return every metric whose name ends in `loss`, by step.

    Raises:
        ValueError: one is not a number, or has no step.
    """
    losses: dict[str, dict[int, float]] = {}
    for place, row in enumerate(rows, 1):
        for name, value in row.items():
            if isinstance(name, str) and name.endswith("loss"):
                try:
                    losses.setdefault(name, {})[int(float(row["step"]))] = float(value)
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    step = shown(row.get("step", "nothing"))
                    raise ValueError(
                        f"{path}, row {place}: expected numbers for step and {name}, found {step} and {shown(value)}"
                    ) from error
    return {name: (sorted(by_step), [by_step[step] for step in sorted(by_step)]) for name, by_step in losses.items()}


def _figures(folder: Path) -> dict[str, bytes]:
    """Return the pictures of a folder of figures, each in one format, and nothing that only has such a name."""
    files: dict[str, tuple[str, bytes]] = {}
    for suffix, starts in IMAGES.items():
        for path in sorted(folder.glob(f"*{suffix}")):
            content = path.read_bytes() if path.is_file() else b""
            if content.startswith(starts):
                files[path.stem] = path.name, content
    return dict(files[stem] for stem in sorted(files))
