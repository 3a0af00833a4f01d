"""The metrics of a run as a plain table, whatever other loggers are on."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from dissimilarity.tables.files import replacing
from dissimilarity.tables.journal import Journal

FLUSH_SECONDS = 5.0
# batches depend on seed and step alone, so nothing is counted in epochs
IGNORED = ("epoch",)


class MetricsLogger(Logger):
    """A logger that writes `metrics.jsonl` and folds it into `metrics.csv`: one row per step, one column per metric.

    Records wait in memory for up to five seconds and are on disk before a checkpoint is written (`flush`), so a kill
    only loses what the continuation computes again.

    Args:
        folder: folder of the run.

    Examples:
        >>> MetricsLogger("runs/x").save_dir
        'runs/x'
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._journal = Journal(self.folder / "metrics.jsonl")
        self._waiting: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty: there is one per run."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml in the run folder has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take one record; `step` counts the updates that the weights had seen."""
        record = {key: value for key, value in metrics.items() if key not in IGNORED and _is_number(value)}
        if record and step is not None:
            self._waiting.append({"step": step, **record})

    @rank_zero_only
    def save(self) -> None:
        """Write the waiting records now and then; Lightning calls this after every record."""
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write every record so far to disk."""
        waiting, self._waiting = self._waiting, []
        self._journal.append(waiting)
        self._flushed = time.monotonic()

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Drop records of steps after `step`, which a continuation writes again; -1 drops all."""
        self._waiting = []
        self._journal.truncate(step)

    def steps(self) -> dict[int, dict[str, Any]]:
        """Return what is on disk by step, ascending; a later value of a metric replaces an earlier one."""
        return by_step(self._journal)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits and fold the table; without records, write none."""
        self.flush()
        if self._journal.path.exists():
            fold(self._journal, self.folder / "metrics.csv")


def tables_of(trainer: pl.Trainer) -> list[MetricsLogger]:
    """Return the metrics tables among the loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)]


def fold(journal: Journal, path: Path) -> None:
    """Write the records of a journal as a CSV, one row per step."""
    steps = by_step(journal)
    columns = sorted({key for record in steps.values() for key in record} - {"step"})
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *columns])
        writer.writeheader()
        writer.writerows(steps.values())


def by_step(journal: Journal) -> dict[int, dict[str, Any]]:
    """Return the records of a journal by step, ascending; a later value of a metric replaces an earlier one."""
    steps: dict[int, dict[str, Any]] = {}
    for record in journal.read():
        steps.setdefault(record["step"], {}).update(record)
    return dict(sorted(steps.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
