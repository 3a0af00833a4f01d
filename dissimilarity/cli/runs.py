"""The commands ``dissimilarity list`` and ``dissimilarity watch``: which runs there are, and how one goes on."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from dissimilarity.cli.fitted_table import LETTERS, UNLIMITED, FittedTable
from dissimilarity.inference.jackknife import plus_minus
from dissimilarity.report.about import last_step, loss_of, status_of
from dissimilarity.report.folders import Folder, found_in, read_folder
from dissimilarity.tables.final import blocks, final_values

SECONDS = 2.0
"""Seconds between two looks at a run."""
EXPECTED = "give folders of runs, such as runs"


def run_list(options: argparse.Namespace) -> None:
    """Print a line per run: state, steps, loss, final value against each reference, and time.

    Raises:
        ValueError: a folder does not exist, or there is no run in it.
    """
    folders = [folder for path in found_in(options.folders, EXPECTED) if (folder := read_folder(path)).kind == "run"]
    if not folders:
        raise ValueError(f"no run in {', '.join(map(str, options.folders))}; {EXPECTED}")
    width = None if sys.stdout.isatty() else UNLIMITED  # a pipe gets whole names, each run on one line
    Console(width=width, highlight=False, emoji=False).print(list_of(folders), crop=False)


def run_watch(options: argparse.Namespace) -> None:
    """Show a run as it goes on, until it has ended or Ctrl-C.

    Raises:
        ValueError: the folder is no run.
    """
    with Live(console=Console(highlight=False, emoji=False), auto_refresh=False) as live:
        while True:
            (first, *_) = found_in([options.folder])
            folder = read_folder(first)
            if folder.kind != "run":
                raise ValueError(f"{options.folder} is not a run; give the folder of one, such as runs/a")
            if first != options.folder:
                raise ValueError(f"{options.folder} is not a run, but holds some; give one of them, such as {first}")
            live.update(state_of(folder), refresh=True)
            if folder.summary:
                return
            time.sleep(SECONDS)


def list_of(folders: Sequence[Folder]) -> FittedTable:
    """Return a table with a line per run. Names are whole, so that they can be typed; references go before the rest."""
    # Rows come in order of depth, so that the last layer of each reference stays.
    ends = {folder.path: {row["reference"]: row for row in _finals(folder)} for folder in folders}
    references = list(dict.fromkeys(reference for rows in ends.values() for reference in rows))
    columns = [*map(escape, references)]
    by_length = sorted(columns[::-1], key=lambda column: len(column) <= LETTERS)  # the long ones first
    drop = ["minutes", *by_length, "steps", "val loss", "state"]
    table = FittedTable("", drop=drop, whole=["run"], captioned=columns)
    table.box, table.pad_edge = None, False
    for column in ("run", "state", "steps", "val loss", *columns, "minutes"):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for folder in folders:
        summary, rows = folder.summary, ends[folder.path]
        values = [_value(rows[reference]) if reference in rows else "" for reference in references]
        table.add_row(
            escape(folder.name),
            escape(status_of(folder)),
            f"{last_step(folder) or 0:,}",
            _number(loss_of(folder), 3),
            *values,
            _number(_minutes(summary), 1),
        )
    measures = sorted({row["measure"] for rows in ends.values() for row in rows.values()})
    if measures:
        table.caption = f"last layer against each reference, by {escape(', '.join(measures))}, with 95% intervals"
        table.caption_justify = "left"
    return table


def state_of(folder: Folder) -> Group:
    """Return what there is to say of a run: step and loss, and each layer against each reference."""
    table = FittedTable("", names=["against", "site"], drop=["measure", "curve"])
    table.box, table.pad_edge = None, False
    for column in ("against", "site", "measure", "value", "curve"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in _finals(folder):
        names = (row["reference"], row["site_a"], row["measure"])
        table.add_row(*map(escape, names), _value(row), blocks(row["curve"]))
    losses = [f"{name} {_number(values[-1], 3)}" for name, (_, values) in folder.losses.items() if values]
    head = ", ".join([f"{folder.name}: {status_of(folder)}", f"step {last_step(folder) or 0:,}", *losses])
    return Group(escape(head), table if table.rows else "no curves", *map(escape, folder.problems))


def _finals(folder: Folder) -> list[dict[str, Any]]:
    """Return where the curves of the first measure end."""
    finals = [] if folder.curves is None else final_values(folder.curves)
    return [row for row in finals if row["measure"] == finals[0]["measure"]]


def _minutes(summary: Mapping[str, Any]) -> float | None:
    seconds = summary.get("seconds")
    return seconds / 60 if isinstance(seconds, (int, float)) else None


def _value(row: Mapping[str, Any]) -> str:
    value = _number(row["value"], 3)
    return value and value + plus_minus(row["stderr"], row["n_units"])


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) and math.isfinite(value) else ""
