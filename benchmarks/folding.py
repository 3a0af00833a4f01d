"""The cost of the curves table by its number of rows: folds at heat maps, one more fold, reading, resuming.

Rows arrive 500 at a time, each time followed by a heat map. Per row, the column "a run's folds" must not grow: a fold
writes the whole table and therefore waits until a quarter of it is new. "another fold" does not wait.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import seconds, show
from dissimilarity.tables.curves import JOURNAL, TABLE, Curves, read_curves
from dissimilarity.tables.journal import Journal

ROWS, TICK, UNITS = (1_000, 10_000, 100_000, 1_000_000), 500, 16


def ticks(count: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a run, tick by tick."""
    for step in range(count // TICK):
        tick = {"step": step, "tokens": step * 4096, "reference": "init", "n_samples": 2048, "seconds": step / 7}
        yield [
            {
                **tick,
                "measure": "cka",
                "site_a": f"blocks.{number % 25}.resid_post",
                "site_b": f"blocks.{number // 25}.resid_post",
                "value": (number + 1) / (step + 3),
                "dissimilarity": 1 - (number + 1) / (step + 3),
                "stderr": 1 / (number + step + 7),
                "null": 1 / (number + step + 11),
                "calibrated": (number + 3) / (step + 5),
                "n_units": UNITS,
                "influence": [(unit - 8) / (number + step + 7) for unit in range(UNITS)],
                "probe": "0123456789ab",
            }
            for number in range(TICK)
        ]


def measured(count: int) -> dict[str, str]:
    """Return the times for one size."""
    with tempfile.TemporaryDirectory() as folder:
        curves = Curves(Path(folder))
        appends = folds = 0.0
        for rows in ticks(count):
            appends += seconds(lambda rows=rows: curves.append(rows))
            folds += seconds(curves.fold_if_grown)
        another = seconds(curves.fold)
        reading = seconds(lambda: read_curves(folder))
        resuming = seconds(lambda: curves.return_to(Journal(Path(folder) / JOURNAL).mark()))
        size = sum((Path(folder) / name).stat().st_size for name in (JOURNAL, TABLE))
    return {
        "rows": f"{count:,}",
        "a run's appends": f"{appends:.2f} s",
        "a run's folds": f"{folds:.2f} s",
        "per row": f"{1e6 * folds / count:.0f} us",
        "another fold": f"{another:.3f} s",
        "read": f"{reading:.3f} s",
        "resume": f"{resuming:.3f} s",
        "both files": f"{size / 1e6:.1f} MB",
    }


def run() -> None:
    """Print the table."""
    show([measured(count) for count in ROWS])
