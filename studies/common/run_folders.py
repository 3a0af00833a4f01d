"""Folders of runs as they are on disk, finished or not, and the table of where their curves end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig
from pyarrow import csv

import settings
from dissimilarity.inference.paired import difference
from dissimilarity.report.about import status_of
from dissimilarity.report.folders import Folder, found_in, read_folder
from dissimilarity.tables.curves import distinct, matched, read_curves, select
from dissimilarity.tables.files import replacing
from dissimilarity.tables.final import final_values
from studies.common.results import claim

KEY = ("reference", "measure", "site_a", "site_b")
ENDS = pa.schema(
    [(name, pa.string()) for name in ("run", "state", *KEY)]
    + [("step", pa.int64()), ("n_units", pa.int64())]
    + [(name, pa.float64()) for name in ("loss", "dissimilarity", "value", "stderr", "null", "calibrated")]
    + [(name, pa.float64()) for name in ("difference", "difference_stderr", "p")]
)
"""Columns of the table: one row per curve. The last three compare it with that of the first run, with paired errors."""


def folders_of(cfg: DictConfig) -> list[Folder]:
    """Read the folders of `cfg.models`.

    Raises:
        ValueError: There is no model, or one is no folder.
    """
    if not cfg.models:
        raise ValueError("models=[]: expected runs to show, such as models=[runs/*]")
    return [read_folder(path) for path in found_in([_folder_of(uri, cfg.runs_dir) for uri in cfg.models])]


def ends_of(folders: Sequence[Folder]) -> pa.Table:
    """Return where every curve of some runs ends."""
    rows, first = [], None
    for folder in folders:
        if folder.curves is None:
            continue
        last = _last_rows(folder.path)
        first = last if first is None else first
        compared = _compared(last, first)
        loss, state = folder.summary.get("val_loss"), status_of(folder)
        run = {"run": folder.name, "state": state, "loss": loss if isinstance(loss, float) else None}
        for row in final_values(folder.curves):
            key = tuple(row[name] for name in KEY)
            rows.append({**row, **run, "dissimilarity": row.pop("curve")[-1], **compared.get(key, {})})
    return pa.Table.from_pylist(rows, schema=ENDS)


def has_curves(folder: Folder) -> bool:
    """Return whether there is anything to draw."""
    return folder.curves is not None and folder.curves.num_rows > 0


def without_curves(folders: Sequence[Folder]) -> list[str]:
    """Return a line for each folder that has no curves to show, which says why."""
    return [
        f"{folder.name} is left out: {'; '.join(folder.problems) or 'it has no curves'}"
        for folder in folders
        if not has_curves(folder)
    ]


def write_csv(table: pa.Table, cfg: DictConfig) -> None:
    """Write a table as `table.csv` into the folder of the results."""
    home = Path(cfg.results_dir) / settings.study_name(cfg)
    claim(home, cfg)
    with replacing(home / "table.csv") as part:
        csv.write_csv(table, part)


def _folder_of(uri: str, runs_dir: str) -> Path:
    path = Path(runs_dir) / uri.removeprefix("runs/") if uri.startswith("runs/") else Path(uri)
    if not path.is_dir():
        raise ValueError(f"models: {uri} is no folder; this study reads the folders of runs")
    return path


def _last_rows(path: Path) -> dict[tuple[str, str], pa.Table]:
    """Return the rows of the last tick by reference and measure, at sites of equal depth, with their influences."""
    rows, curves = {}, pa.table(read_curves(path))
    for reference in distinct(curves, "reference"):
        of_reference = select(curves, reference=reference)
        for measure in distinct(of_reference, "measure"):
            line = matched(select(of_reference, measure=measure))
            if line.num_rows:
                rows[reference, measure] = select(line, step=line["step"][-1].as_py())
    return rows


def _compared(
    rows: dict[tuple[str, str], pa.Table], first: dict[tuple[str, str], pa.Table]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the differences of rows from those of the first run; none where they share no text or no sites."""
    differences = {}
    for key in rows.keys() & first.keys() if rows is not first else ():
        try:
            pairs = difference(rows[key], first[key]).to_pylist()
        except ValueError:  # other text, or other sites
            continue
        for pair in pairs:
            numbers = {"difference": pair["difference"], "difference_stderr": pair["stderr"], "p": pair["p"]}
            differences[(*key, pair["site_a"], pair["site_b"])] = numbers
    return differences
