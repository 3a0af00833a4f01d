"""The metrics of a run as a plain table, whichever other loggers are on."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from dissimilarity.tables.files import replacing
from dissimilarity.tables.journal import Journal

FLUSH_SECONDS = 5.0
# always 0: a batch follows from seed and step, so nothing is counted in epochs
LEFT_OUT = ("epoch",)


class MetricsLogger(Logger):
    """Writes what is logged to `metrics.jsonl`, and folds it into `metrics.csv`: one row a step, one column a metric.

    Rows wait in memory for up to five seconds, and are on disk before a checkpoint is written (`flush`): what a kill
    loses is what the continuation computes again.

    Args:
        folder: the run folder.
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
        """There is one a run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml in the run folder has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Takes one row; `step` counts the updates that the weights had seen."""
        row = {key: value for key, value in metrics.items() if key not in LEFT_OUT and _is_number(value)}
        if row and step is not None:
            self._waiting.append({"step": step, **row})

    @rank_zero_only
    def save(self) -> None:
        """Writes the waiting rows now and then; Lightning calls this after every row."""
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Puts every row taken so far on disk."""
        waiting, self._waiting = self._waiting, []
        self._journal.append(waiting)
        self._flushed = time.monotonic()

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Drops rows of later steps than `step`; -1 drops all. The continuation of a run writes them again."""
        self._waiting = []
        self._journal.truncate(step)

    def steps(self) -> dict[int, dict[str, Any]]:
        """What is on disk, by step, steps ascending; of two values for a step and metric the later one."""
        return by_step(self._journal)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what waits and folds the table; a training that has come to no row leaves none."""
        self.flush()
        if self._journal.path.exists():
            fold(self._journal, self.folder / "metrics.csv")


def fold(journal: Journal, path: Path) -> None:
    """Writes the journal's rows as a CSV, one row a step."""
    steps = by_step(journal)
    columns = sorted({key for row in steps.values() for key in row} - {"step"})
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *columns])
        writer.writeheader()
        writer.writerows(steps.values())


def by_step(journal: Journal) -> dict[int, dict[str, Any]]:
    """One row a step, steps ascending; of two values for the same step and metric the later one stands."""
    steps: dict[int, dict[str, Any]] = {}
    for row in journal.read():
        steps.setdefault(row["step"], {}).update(row)
    return dict(sorted(steps.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
