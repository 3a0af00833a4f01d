"""The jobs of a sweep: each leaves its status, and the sweep ends with a table of them."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.run.folder import read_json, write_json, write_text

NUMBERS = ("val_loss", "bits_per_byte", "val_accuracy", "ood_accuracy")
"""Results by which jobs are compared; the table shows those that its task has."""
COLUMNS = ("run", "status", "steps", *NUMBERS, "seconds", "message")


def in_sweep() -> bool:
    """Return whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def typed_overrides() -> list[str]:
    """Return the overrides of the command line, in a sweep those of this job; none outside of a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def sweep_id() -> str | None:
    """Return the name of the sweep that this job belongs to; None outside of a sweep."""
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def side_by_side() -> bool:
    """Return whether the launcher may run several jobs at once, so that progress bars would overwrite each other."""
    return in_sweep() and not str(HydraConfig.get().launcher._target_).endswith("BasicLauncher")


def write_status(**values: Any) -> None:
    """Merge `values` (see `COLUMNS`) into the job's status.json; do nothing outside of a sweep."""
    if in_sweep():
        path = Path(HydraConfig.get().runtime.output_dir) / "status.json"
        write_json(path, {**read_json(path), **values})


class SweepTable(Callback):
    """A Hydra callback that prints a table of the runs at the end of a sweep and saves it as sweeps/ID/table.csv."""

    current: "SweepTable | None" = None
    failed = False

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._begun = time.monotonic()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder in which the jobs write their status."""
        self._folder = Path(config.hydra.sweep.dir)
        SweepTable.current = self

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        self.show()

    def show(self) -> None:
        """Print and write the table of the jobs that have a status, and record whether one of them failed."""
        folder, self._folder, SweepTable.current = self._folder, None, None
        if folder is None or not folder.exists():
            return
        statuses = [_final(read_json(path)) for path in sorted(folder.glob("*/status.json"), key=_number)]
        _write_table(folder / "table.csv", statuses)
        print_table(statuses, title=str(folder))
        SweepTable.failed = any(status.get("status") == "failed" for status in statuses)


def _final(status: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a job after the sweep: one that still counts as running was killed and can be continued."""
    return {**status, "status": "killed"} if status.get("status") == "running" else status


def print_table(statuses: list[dict[str, Any]], title: str) -> None:
    """Print one row per job."""
    table = Table(title=title, title_justify="left")
    numbers = [key for key in NUMBERS if any(status.get(key) is not None for status in statuses)]
    shown = [key.replace("_per_", "/").replace("_", " ") for key in numbers]
    for column in ("run", "status", "steps", *shown, "time"):
        # An ellipsis would hide the ends of names, which is where they differ.
        table.add_column(column, justify="left" if column in ("run", "status") else "right", overflow="fold")
    for status in statuses:
        color = {"finished": "green", "failed": "red"}.get(str(status.get("status")), "yellow")
        table.add_row(
            str(status.get("run", "")),
            f"[{color}]{status.get('status', '')}[/{color}]",
            str(status.get("steps", "")),
            *(_number_text(status.get(key)) for key in numbers),
            "" if status.get("seconds") is None else f"{status['seconds']:.0f} s",
        )
    terminal = Console(highlight=False)
    terminal.print()
    terminal.print(table)
    for status in statuses:
        if status.get("status") == "failed":
            first_line = str(status.get("message")).splitlines()[0]
            terminal.print(f"[red]{status.get('run')}[/red]: {escape(first_line)}", soft_wrap=True)


def _write_table(path: Path, statuses: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([status.get(column) for column in COLUMNS] for status in statuses)
    write_text(path, text.getvalue())


def _number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else 0, name)


def _number_text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
