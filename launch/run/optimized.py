"""The number of a finished run that a sweeper such as Optuna optimizes, by name."""

import math
from pathlib import Path
from typing import Any

CURVES = "dissimilarity/"
"""Beginning of the keys of curves in the loggers: dissimilarity/REFERENCE/MEASURE/SITE."""


def optimized(name: str, folder: Path, summary: dict[str, Any]) -> float:
    """Return the number of summary.json, or the last value of a column of metrics.csv, that `name` names.

    Args:
        name: The value of `optimized_metric`; a dot enters a part of the summary, such as `splits.val`.
        folder: The run folder.
        summary: The content of summary.json.

    Returns:
        The number, NaN if the run has no finite one.

    Raises:
        ValueError: If the run has no such number; lists those that it has.
    """
    from callbacks.metrics import MetricsLogger

    numbers = dict(_numbers(summary))
    columns: dict[str, float] = {}
    if name not in numbers:
        for row in MetricsLogger(folder).steps().values():
            columns |= row
    if name not in numbers | columns:
        available = sorted(numbers | {key: value for key, value in columns.items() if key.startswith(CURVES)})
        raise ValueError(
            f"optimized_metric={name}: expected a number of summary.json or a column of metrics.csv in {folder}: "
            f"{', '.join(available)}"
        )
    value = numbers.get(name, columns.get(name))
    return math.nan if value is None else float(value)


def _numbers(node: dict[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    """Return the numbers of a summary by dotted name, and the numbers that it lacks."""
    numbers = []
    for key, value in node.items():
        if isinstance(value, dict):
            numbers += _numbers(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            numbers.append((f"{prefix}{key}", value))
    return numbers
