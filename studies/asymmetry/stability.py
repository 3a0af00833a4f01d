"""Where the sign of an asymmetry is stable, in words that the numbers write."""

from collections.abc import Sequence

import numpy as np

from studies.asymmetry.numbers import KINSHIPS, Row, at_equal_losses, both_ways, of_main, rank_correlation
from studies.common.format import number, span


def stability(rows: Sequence[Row], families: Sequence[str]) -> list[str]:
    """The sign of A's difference over training, fit, width, depth and kinship, and its tie to the models' losses."""
    lines = ["| models | fit | width | depth | step | penalty, first -> second less second -> first | cells above 0 |"]
    lines.append("| --- " * 7 + "|")
    signs: dict[tuple[str, str], list[float]] = {}
    gaps: dict[str, list[Row]] = {}
    for kinship in KINSHIPS:
        for fit in ("direct", "task", "paper"):
            each = both_ways(of_main(rows, fit), families, kinship, "penalty")
            where = sorted({(one["cell"][0], one["cell"][1], one["step"]) for one in each})
            for width, depth, step in where:
                here = [one for one in each if (*one["cell"][:2], one["step"]) == (width, depth, step)]
                by_cell: dict[str, list[float]] = {}
                for one in here:
                    by_cell.setdefault(one["cell"][2], []).append(one["difference"])
                means = [float(np.mean(values)) for values in by_cell.values()]
                above = sum(mean > 0 for mean in means)
                lines.append(
                    f"| {kinship} | {fit} | {width} | {depth} | {step:,} | {number(float(np.mean(means)))} | "
                    f"{above}/{len(means)} |"
                )
                signs.setdefault((kinship, fit), []).append(float(np.mean(means)))
            if fit == "direct":
                gaps[kinship] = each
    lines.append("")
    for (kinship, fit), values in signs.items():
        above = sum(value > 0 for value in values)
        steady = "stable" if above in (0, len(values)) else "not stable"
        lines.append(f"- {kinship}, {fit}: above 0 in {above} of {len(values)} settings: the sign is {steady}.")
    for kinship, each in gaps.items():
        rho, p = rank_correlation([one["gap"] for one in each], [one["difference"] for one in each])
        line = at_equal_losses(each)
        lines.append(
            f"- {kinship}: Spearman correlation of the asymmetry with the gap of the two models' own losses "
            f"{number(rho, 2)} (permutation p = {number(p, 3, False)}; cells share models, so p is too small). "
            f"On a line through all points it is {number(line.mean)} nats/token at equal losses ({span(line)} over "
            f"pairs of models), and {number(line.slope, 2)} for each nat by which {families[1]} is worse."
        )
    return lines
