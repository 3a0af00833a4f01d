"""Interleaved timing of all candidates in turn, round after round, so that drift of the machine affects all equally."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.console import Console
from rich.table import Table

from launch.run.provenance import cpu_name


def machine() -> str:
    """Return the machine in one line, with its measured rate of float32 products."""
    rate = gemm_rate() / 1e9
    return (
        f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, "
        f"python {platform.python_version()}, torch {torch.__version__}, SGEMM {rate:.0f} GFLOP/s"
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call, which other processes hardly change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def gemm_rate(
    size: int = 1024,
    repeats: int = 7,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[Callable[[], object]], float] = seconds,
) -> float:
    """Return the floating-point operations per second of a square matrix product, the median of several."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / statistics.median(clock(lambda: a @ b) for _ in range(repeats))


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, list[float]]:
    """Return measurements of each candidate, taken in turn after a warm-up round."""
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, candidate in candidates.items():
            figure = candidate()
            if round_:
                figures[name].append(figure)
    return figures


def ratio(figures: Mapping[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Return minimum, median and maximum of name / base over the rounds."""
    ratios = [a / b for a, b in zip(figures[name], figures[base], strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


SHOWN: list[list[dict[str, str]]] = []
"""The tables that were shown."""


def show(rows: list[dict[str, str]]) -> None:
    """Print rows as a table, and keep it in `SHOWN`; the keys of the first row are the columns."""
    SHOWN.append(rows)
    table = Table(show_edge=False, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*row.values())
    Console(highlight=False).print(table)
