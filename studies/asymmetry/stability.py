"""The asymmetry by fit, shape and step, as lines of a summary."""

from collections.abc import Sequence

import numpy as np

from studies.asymmetry.numbers import KINSHIPS, Record, paired_differences, same_shape
from studies.common.format import number, table_head, table_row


def stability_lines(records: Sequence[Record], families: Sequence[str]) -> list[str]:
    """Return the sign of claim A's difference over training, fit, shape and kinship.

    Args:
        records: all stitches.
        families: first and second.
    """
    columns = ("models", "fit", "width", "depth", "step")
    lines = table_head(*columns, "penalty, first -> second minus second -> first", "cells above 0")
    signs: dict[tuple[str, str], list[float]] = {}
    for kinship in KINSHIPS:
        for fit in ("direct", "task", "paper"):
            differences = paired_differences(same_shape(records, fit), families, kinship, "penalty")
            rows, means = _settings(differences, kinship, fit)
            lines += rows
            if means:
                signs[kinship, fit] = means
    lines.append("")
    for (kinship, fit), values in signs.items():
        above = sum(value > 0 for value in values)
        lines.append(f"- {kinship}, {fit}: above 0 in {above} of {len(values)} settings.")
    return [*lines, "", "Settings share models, so equal signs are no evidence that the next model would agree."]


def _settings(differences: Sequence[Record], kinship: str, fit: str) -> tuple[list[str], list[float]]:
    """Return a line of the table and the mean difference per width, depth and step."""
    lines, settings = [], []
    for width, depth, step in sorted({(*record["cell"][:2], record["step"]) for record in differences}):
        by_site: dict[str, list[float]] = {}
        for record in differences:
            if (*record["cell"][:2], record["step"]) == (width, depth, step):
                by_site.setdefault(record["cell"][2], []).append(record["difference"])
        means = [float(np.mean(values)) for values in by_site.values()]
        mean = float(np.mean(means))
        above = f"{sum(value > 0 for value in means)}/{len(means)}"
        lines.append(table_row(kinship, fit, str(width), str(depth), f"{step:,}", number(mean), above))
        settings.append(mean)
    return lines, settings
