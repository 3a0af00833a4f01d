"""The study `report`: one page for any set of runs, and a table of the final value of every curve."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig
from pyarrow import csv

import settings
from dissimilarity.report.about import UNFINISHED, last_step
from dissimilarity.report.folders import Folder, found_in, read_folder
from dissimilarity.tables.files import replacing
from dissimilarity.tables.final import final_values
from launch.cli.tables import FittedTable
from studies.common.format import number, table_head, table_row
from studies.common.next_command import models_override
from studies.common.results import Results, claim

COLUMNS = ("run", "state", "step", "loss", "curves")
FINAL = pa.schema(
    [(name, pa.string()) for name in ("run", "state", "reference", "measure", "site_a", "site_b")]
    + [("step", pa.int64()), ("n_units", pa.int64())]
    + [(name, pa.float64()) for name in ("loss", "dissimilarity", "value", "stderr", "null", "calibrated")]
)
"""Columns of the table: one row per curve; a run without curves has none."""


def report(cfg: DictConfig) -> Results:
    """Show the folders of `cfg.models`, whether they are finished or not.

    Args:
        cfg: config of analyze.py.

    Raises:
        ValueError: No folder, or one that does not exist.
    """
    if not cfg.models:
        raise ValueError("models=[]: expected runs to show, such as models=[runs/*]")
    paths = found_in([folder_of(uri, cfg.runs_dir) for uri in cfg.models])
    folders = [read_folder(path) for path in paths]
    lines = [_line(folder) for folder in folders]
    shown = FittedTable("runs", names=["run"], drop=["curves"])
    for column in COLUMNS:
        shown.add_column(column)
    for line in lines:
        shown.add_row(*line)
    table = pa.Table.from_pylist([row for folder in folders for row in _rows(folder)], schema=FINAL)
    home = Path(cfg.results_dir) / settings.study_name(cfg)
    claim(home, cfg)
    with replacing(home / "table.csv") as part:
        csv.write_csv(table, part)
    text = ["# Runs", "", *table_head(*COLUMNS), *(table_row(*line) for line in lines), ""]
    return Results(
        table=table,
        summary="\n".join(text),
        figures={},
        provenance={"folders": [str(path.absolute()) for path in paths]},
        shown=[shown],
        next_command=_next_command([folder for folder in folders if folder.kind == "run"], list(cfg.models)),
        page_of=paths,
    )


def folder_of(uri: str, runs_dir: str) -> Path:
    """Return the folder that a URI names.

    Raises:
        ValueError: It names no folder.
    """
    path = Path(runs_dir) / uri.removeprefix("runs/") if uri.startswith("runs/") else Path(uri)
    if not path.is_dir():
        raise ValueError(f"models: {uri} is no folder; study=report shows folders of runs and of results")
    return path


def _line(folder: Folder) -> list[str]:
    loss, step = folder.summary.get("val_loss"), last_step(folder)
    curves = 0 if folder.curves is None else len(final_values(folder.curves))
    state = str(folder.summary.get("status", UNFINISHED)) if folder.kind == "run" else folder.kind
    shown = number(loss, sign=False) if isinstance(loss, float) else ""
    return [folder.name, state, "" if step is None else f"{step:,}", shown, str(curves)]


def _rows(folder: Folder) -> list[dict[str, Any]]:
    """Return the final value of every curve of a run."""
    loss, state = folder.summary.get("val_loss"), str(folder.summary.get("status", UNFINISHED))
    run = {"run": folder.name, "state": state, "loss": loss if isinstance(loss, float) else None}
    finals = [] if folder.curves is None else final_values(folder.curves)
    return [{**row, **run, "dissimilarity": row.pop("curve")[-1]} for row in finals]


def _next_command(runs: list[Folder], uris: list[str]) -> str | None:
    return f"python analyze.py study=compare {models_override(uris[:2])}" if len(runs) > 1 and len(uris) > 1 else None
