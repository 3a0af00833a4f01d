"""Whether the sign of an asymmetry is stable, as lines of a summary."""

from collections.abc import Sequence

import numpy as np

from studies.asymmetry.numbers import KINSHIPS, Record, at_equal_losses, paired_differences, same_shape
from studies.common.format import interval_in_words, number, table_head, table_row
from studies.common.resampling import rank_correlation

PERMUTATIONS = 999


def stability_lines(records: Sequence[Record], families: Sequence[str]) -> list[str]:
    """Return the sign of claim A's difference over training, fit, shape and kinship, and how it relates to the losses.

    Args:
        records: all stitches.
        families: first and second.
    """
    columns = ("models", "fit", "width", "depth", "step")
    lines = table_head(*columns, "penalty, first -> second minus second -> first", "cells above 0")
    signs: dict[tuple[str, str], list[float]] = {}
    direct: dict[str, list[Record]] = {}
    for kinship in KINSHIPS:
        for fit in ("direct", "task", "paper"):
            differences = paired_differences(same_shape(records, fit), families, kinship, "penalty")
            rows, means = _settings(differences, kinship, fit)
            lines += rows
            if means:
                signs[kinship, fit] = means
        direct[kinship] = paired_differences(same_shape(records, "direct"), families, kinship, "penalty")
    lines.append("")
    for (kinship, fit), values in signs.items():
        above = sum(value > 0 for value in values)
        verdict = "stable" if above in (0, len(values)) else "not stable"
        lines.append(f"- {kinship}, {fit}: above 0 in {above} of {len(values)} settings: the sign is {verdict}.")
    return lines + [_against_losses(kinship, differences, families[1]) for kinship, differences in direct.items()]


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


def _against_losses(kinship: str, differences: Sequence[Record], second: str) -> str:
    gaps, values = ([record[key] for record in differences] for key in ("gap", "difference"))
    rho, p = rank_correlation(gaps, values, PERMUTATIONS, min_points=4)
    line = at_equal_losses(differences)
    return (
        f"- {kinship}: the Spearman correlation of the asymmetry with the gap between the two models' own losses is "
        f"{number(rho, 2)} (permutation p = {number(p, 3, False)}; cells share models, so p is too small). "
        f"On a line through all points the asymmetry is {number(line.mean)} nats/token at equal losses "
        f"({interval_in_words(line)} over pairs of models), plus {number(line.slope, 2)} for each nat by which "
        f"{second} is worse."
    )
