"""The jobs of a sweep: each leaves its status, and the sweep ends with a table of them."""

import csv
import hashlib
import io
import re
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

import settings
from dissimilarity.cli.fitted_table import FittedTable
from launch.run.config_file import read_yaml
from launch.run.folder import read_json, write_json, write_text

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
NUMBERS = ("optimized", "val_loss", "bits_per_byte", "val_accuracy", "ood_accuracy")
"""Results by which jobs are compared; the table shows those that its task has."""
SEARCHED = "optimization_results.yaml"
"""The file that the Optuna sweeper writes into the folder of a sweep."""
COLUMNS = ("run", "status", "steps", *NUMBERS, "seconds", "message")


def in_sweep() -> bool:
    """Return whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def in_search() -> bool:
    """Return whether a sweeper such as Optuna reads the number that this job returns."""
    return in_sweep() and HydraConfig.get().sweeper._target_ != BASIC


def typed_overrides() -> list[str]:
    """Return the overrides of the command line, in a sweep those of this job; none outside of a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def sweep_id() -> str | None:
    """Return the name of the sweep that this job belongs to; None outside of a sweep."""
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def side_by_side() -> bool:
    """Return whether the launcher may run several jobs at once, so that progress bars would overwrite each other."""
    return in_sweep() and not str(HydraConfig.get().launcher._target_).endswith("BasicLauncher")


def job_name(cfg: DictConfig) -> str:
    """Return the name of a job's run: the usual one, plus the swept values that it does not tell apart.

    `launch/cli/check.py` lists the other keys: those that the usual name tells apart, and those with one value.
    """
    name = settings.run_name(cfg)
    if cfg.name or not in_sweep():
        return name
    excluded = HydraConfig.get().job.config.override_dirname.exclude_keys
    pairs = [override.lstrip("+~").partition("=")[::2] for override in typed_overrides()]
    swept = {key.partition("@")[0]: value for key, value in pairs if key.partition("@")[0] not in excluded}
    leaves = [key.rpartition(".")[2] for key in swept]
    parts = [
        _part(leaf if leaves.count(leaf) == 1 else key, value)
        for leaf, (key, value) in zip(leaves, swept.items(), strict=True)
    ]
    return "-".join([name, *parts])


def _part(key: str, value: str) -> str:
    """Return a key and its value as part of a name; a value that a name cannot hold is represented by its hash.

    Examples:
        >>> _part("batch_size", "8"), _part("optim", "adamw"), _part("lr", "0.006340793668367881")
        ('batch_size8', 'optim-adamw', 'lr0.00634079')
    """
    if re.fullmatch(r"-?\d+\.\d{7,}(e-?\d+)?", value):  # drawn by a sampler
        value = f"{float(value):.6g}"
    shown = re.sub(r"[^\w.+-]+", "_", value).strip("_")[:40]
    is_exact = shown == value
    digest = "" if is_exact else f"-{hashlib.sha256(value.encode()).hexdigest()[:4]}"
    return re.sub(r"[^\w.-]", "_", key) + ("" if shown[:1].isdigit() else "-") + shown + digest


def begin_status(run: str) -> None:
    """Write a new status.json of this job; do nothing outside of a sweep."""
    if in_sweep():
        write_json(_status_path(), {"run": run, "status": "running"})


def write_status(**values: Any) -> None:
    """Merge `values` (see `COLUMNS`) into the job's status.json; do nothing outside of a sweep."""
    if in_sweep():
        write_json(_status_path(), {**read_json(_status_path()), **values})


def _status_path() -> Path:
    return Path(HydraConfig.get().runtime.output_dir) / "status.json"


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
        (self._folder / SEARCHED).unlink(missing_ok=True)
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
        if (folder / SEARCHED).exists():
            _print_best(read_yaml(folder / SEARCHED))
        SweepTable.failed = any(status.get("status") == "failed" for status in statuses)


def _final(status: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a job after the sweep: one that still counts as running was killed and can be continued."""
    return {**status, "status": "killed"} if status.get("status") == "running" else status


def print_table(statuses: list[dict[str, Any]], title: str) -> None:
    """Print one row per job."""
    numbers = [key for key in NUMBERS if any(status.get(key) is not None for status in statuses)]
    shown = [key.replace("_per_", "/").replace("_", " ") for key in numbers]
    table = FittedTable(escape(title), names=["run"], drop=["steps", "time", *shown[:0:-1]])
    for column in ("run", "status", "steps", *shown, "time"):
        table.add_column(column, justify="left" if column in ("run", "status") else "right")
    for status in statuses:
        color = {"finished": "green", "failed": "red"}.get(str(status.get("status")), "yellow")
        table.add_row(
            escape(str(status.get("run", ""))),
            f"[{color}]{status.get('status', '')}[/{color}]",
            str(status.get("steps", "")),
            *(_number_text(status.get(key)) for key in numbers),
            "" if status.get("seconds") is None else f"{status['seconds']:.0f} s",
        )
    terminal = Console(highlight=False)
    terminal.print()
    terminal.print(table, crop=False)
    for status in statuses:
        if status.get("status") == "failed":
            terminal.print(
                f"[red]{escape(str(status.get('run')))}[/red]: {escape(str(status.get('message')))}", soft_wrap=True
            )


def _print_best(results: dict[str, Any]) -> None:
    """Print the overrides of the best job of a search."""
    if "best_params" in results:
        overrides = " ".join(f"{key}={value}" for key, value in results["best_params"].items())
        best = f"best: [cyan]{escape(overrides)}[/cyan] ({results['best_value']:.4g})"
        Console(highlight=False).print(best, soft_wrap=True)


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
