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

GEMM_SIZES = {"cpu": 1024, "cuda": 8192}
"""Sizes of square matrices whose product takes much longer than its start, by device."""


def machine(device: str = "cpu") -> str:
    """Return the machine in one line, with the measured rate of float32 products on its processor or its GPU."""
    rate = gemm_rate(device) / 1e9
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return (
        f"{gpu}{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, "
        f"python {platform.python_version()}, torch {torch.__version__}, SGEMM {rate:.0f} GFLOP/s"
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call, until a GPU has done what it was given."""
    start = now()
    work()
    return now() - start


def now() -> float:
    """Return the time in seconds at which a GPU has done all that it was given, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call, which other processes hardly change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def gemm_rate(device: str = "cpu", repeats: int = 7) -> float:
    """Return the operations per second of a square matrix product in float32, the median of several."""
    size = GEMM_SIZES[device]
    a, b = torch.randn(2, size, size, device=device)
    return 2 * size**3 / statistics.median(seconds(lambda: a @ b) for _ in range(repeats))


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
