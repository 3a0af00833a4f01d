"""What the study `asymmetry` found, in words that the numbers write."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from studies.asymmetry_numbers import (
    CLAIMS,
    KINSHIPS,
    READINGS,
    WAYS,
    Difference,
    Row,
    both_ways,
    claim_a,
    mean_interval,
    of_main,
    rank_correlation,
    select,
)


def summary(found: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    families = found["families"]
    first, second = families
    lines = [f"# Is stitching {first} into {second} dearer than {second} into {first}?", "", _answer(found), ""]
    lines += ["## The models", "", *_losses(found["rows"]), "", *_means(notes)]
    lines += ["", "## The paper's claims", "", *_claims(found)]
    lines += ["", "## Where the sign is stable", "", *_stability(found)]
    lines += ["", "## What a penalty of 0 and of nothing in common would look like", "", *_nulls(found)]
    if found["capacity"]:
        lines += ["", "## Capacity", "", *_capacity(found)]
    lines += ["", "## Without a map", "", *_partners(found)]
    return "\n".join(lines) + "\n"


def terminal_tables(found: Mapping[str, Any]) -> list[Table]:
    """The claims in every reading."""
    table = Table(title="the paper's claims: mean difference in nats/token [95 % interval], cells above 0")
    for column in ("claim", "kinship", *(_way(*way) for way in WAYS)):
        table.add_column(column)
    for name, (_, claim) in CLAIMS.items():
        for kinship in KINSHIPS:
            cells = [_of(claim, found, kinship, *way) for way in WAYS]
            table.add_row(name, kinship, *(f"{each.verdict} {_interval(each)}" for each in cells))
    return [table]


def _answer(found: Mapping[str, Any]) -> str:
    """The first paragraph: the asymmetry in the reading that is right, against the paper's."""
    first, second = found["families"]
    parts = []
    for kinship in KINSHIPS:
        paper, right = (
            _of(claim_a, found, kinship, "paper", "loss_stitched"),
            _of(claim_a, found, kinship, "task", "excess"),
        )
        parts.append(
            f"Between {kinship} models {first} -> {second} costs {_number(right.mean)} nats/token more than "
            f"{second} -> {first} ({_span(right)}; {right.pairs} pairs of models; {_words(right)}) by trained stitches "
            f"less what each model loses in stitching to itself; read the paper's way (raw loss, cold start) it is "
            f"{_number(paper.mean)} ({_span(paper)}; {_words(paper)})."
        )
    return " ".join(parts)


def _words(found: Difference) -> str:
    return {"holds": "the paper's direction", "reversed": "the other direction", "open": "no direction"}[found.verdict]


def _losses(rows: Sequence[Row]) -> list[str]:
    """Losses of the models themselves, by family, width and depth."""
    lines = [
        "| family | width | depth | loss, nats/token, mean over seeds and 95 % half-width |",
        "| --- | --- | --- | --- |",
    ]
    own: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in rows:
        if row["last"]:
            own.setdefault((row["family_back"], row["width_back"], row["depth"]), {})[row["back"]] = row["loss_back"]
    for (family, width, depth), losses in own.items():
        mean, half = mean_interval(list(losses.values()))
        lines.append(f"| {family} | {width} | {depth} | {mean:.3f} ± {half:.3f} ({len(losses)} models) |")
    return lines


def _means(notes: Mapping[str, Any]) -> list[str]:
    text = notes["text"]
    return [
        f"Maps are fitted on {text['fit']} sequences of {text['length']} tokens that no model was trained on, and "
        f"penalties are measured on {text['held_out']} others. Siblings have the same starting weights and order of "
        "text. `direct` is the affine map of least squares; `task` starts there and follows the back model's loss "
        "until that stops falling on sequences held out, or "
        f"{notes['task_steps']} steps are done; `paper` is affine + LayerNorm from random weights, "
        f"{notes['paper_steps']} steps of the paper's recipe. Intervals are bootstraps over pairs of models; with "
        "three pairs they are too narrow.",
    ]


def _claims(found: Mapping[str, Any]) -> list[str]:
    families = found["families"]
    lines = [f"- {name}: {text.format(*families)}." for name, (text, _) in CLAIMS.items()]
    lines += [
        "",
        "In nats per token, mean over layers and depths, [95 % interval], and in how many cells (depth x layer) the "
        "mean is above 0. `holds` and `reversed` where the interval leaves 0 on one side. For independent models B and "
        "C read stitches between models of one family in the place of self-stitches.",
        "",
        "| claim | models | " + " | ".join(_way(*way) for way in WAYS) + " |",
        "| --- " * (2 + len(WAYS)) + "|",
    ]
    for name, (_, claim) in CLAIMS.items():
        for kinship in KINSHIPS:
            cells = [_of(claim, found, kinship, *way) for way in WAYS]
            shown = [f"{each.verdict}: {_interval(each)}, {each.positive}/{each.cells}" for each in cells]
            lines.append(f"| {name} | {kinship} | " + " | ".join(shown) + " |")
    return lines


def _stability(found: Mapping[str, Any]) -> list[str]:
    """The sign of A's difference over training, fit, width, depth and kinship, and its tie to the models' losses."""
    rows, families = found["rows"], found["families"]
    lines = ["| models | fit | width | depth | step | penalty, first -> second less second -> first | cells above 0 |"]
    lines.append("| --- " * 7 + "|")
    signs: dict[tuple[str, str], list[float]] = {}
    gaps: dict[str, tuple[list[float], list[float]]] = {}
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
                    f"| {kinship} | {fit} | {width} | {depth} | {step:,} | {_number(float(np.mean(means)))} | "
                    f"{above}/{len(means)} |"
                )
                signs.setdefault((kinship, fit), []).append(float(np.mean(means)))
            if fit == "direct":
                gaps[kinship] = [one["gap"] for one in each], [one["difference"] for one in each]
    lines.append("")
    for (kinship, fit), values in signs.items():
        above = sum(value > 0 for value in values)
        steady = "stable" if above in (0, len(values)) else "not stable"
        lines.append(f"- {kinship}, {fit}: above 0 in {above} of {len(values)} settings: the sign is {steady}.")
    for kinship, (gap, difference) in gaps.items():
        rho, p = rank_correlation(gap, difference)
        lines.append(
            f"- {kinship}: Spearman correlation of the asymmetry with the gap of the two models' own losses "
            f"{_number(rho, 2)} (permutation p = {_number(p, 3, False)}; cells share models, so p is too small)."
        )
    return lines


def _nulls(found: Mapping[str, Any]) -> list[str]:
    rows = found["rows"]
    lines = ["| stitch (direct, affine; mean over all cells) | penalty, nats/token |", "| --- | --- |"]
    kinds = [("each model with itself", of_main(select(rows, last=True, kinship="self"), "direct"))]
    kinds += [
        (
            f"across families, {kinship}",
            [
                r
                for r in of_main(select(rows, last=True, kinship=kinship), "direct")
                if r["family_front"] != r["family_back"]
            ],
        )
        for kinship in KINSHIPS
    ]
    kinds += [
        ("front of random weights", select(rows, fit="null_random")),
        ("front reads other sequences", select(rows, fit="null_shuffled")),
    ]
    for name, chosen in kinds:
        if chosen:
            lines.append(f"| {name} | {_number(float(np.mean([row['penalty'] for row in chosen])))} |")
    ridges = sum(bool(row["ridge"]) for row in rows if row["fit"] == "direct" and row["kind"] == "affine")
    noted = sorted({row["note"] for row in rows if row["note"]})
    lines += ["", f"A ridge was chosen in {ridges} direct stitches (column `ridge`)."]
    lines += [f"- {note} ({sum(row['note'] == note for row in rows)} stitches)" for note in noted]
    return lines


def _capacity(found: Mapping[str, Any]) -> list[str]:
    base, models = found["families"][1], found["capacity"]
    lines = [
        f"Direct penalties with independent {base} models, mean over layers; sparsity of the neurons "
        "(1 - (mean |a|)^2 / mean a^2) and effective rank of the residual stream.",
        "",
        f"| family | loss | sparsity | effective rank | into {base} | from {base} |",
        "| --- " * 6 + "|",
    ]
    keys = ("loss", "sparsity", "effective_rank", "into_base", "from_base")
    for family in dict.fromkeys(model["family"] for model in models):
        chosen = select(models, family=family)
        means = [mean_interval([model[key] for model in chosen]) for key in keys]
        lines.append(f"| {family} | " + " | ".join(f"{mean:.3g} ± {half:.2g}" for mean, half in means) + " |")
    lines.append("")
    for key in ("sparsity", "effective_rank", "loss"):
        for target, words in (("into_base", f"into {base}"), ("from_base", f"from {base}")):
            rho, p = rank_correlation([m[key] for m in models], [m[target] for m in models])
            name = key.replace("_", " ")
            lines.append(
                f"- Spearman correlation of {name} and the penalty {words}: {_number(rho, 2)} "
                f"(p = {_number(p, 3, False)})."
            )
    return lines


def _partners(found: Mapping[str, Any]) -> list[str]:
    rows, lines = found["rows"], []
    identity = [row for row in rows if row["kind"] == "identity"]
    within = [row for row in identity if row["kinship"] == "self" and row["site"] != row["back_site"]]
    across = [row for row in identity if row["kinship"] == "sibling"]
    if within:
        ahead = [row["penalty"] for row in within if row["site"] < row["back_site"]]
        behind = [row["penalty"] for row in within if row["site"] > row["back_site"]]
        lines.append(
            f"- Identity stitches inside one model: skipping layers costs {_number(float(np.mean(ahead)))}, repeating "
            f"them {_number(float(np.mean(behind)))} nats/token on average."
        )
    if across:
        mean = float(np.mean([row["penalty"] for row in across]))
        lines.append(f"- Identity stitches between siblings of the two families cost {_number(mean)} nats/token.")
    for kinship in KINSHIPS:
        chosen = select(found["barriers"], kinship=kinship)
        if chosen:
            mean, half = mean_interval([row["barrier"] for row in chosen])
            lines.append(
                f"- Loss barrier on the line between {kinship} models of one family: {mean:.3f} ± {half:.3f} "
                f"nats/token ({len(chosen)} pairs)."
            )
    return lines or ["Nothing was measured."]


def _of(claim: Any, found: Mapping[str, Any], kinship: str, fit: str, reading: str) -> Difference:
    return claim(select(of_main(found["rows"], fit), last=True), found["families"], kinship, reading)


def _way(fit: str, reading: str) -> str:
    return f"{fit}, {READINGS[reading]}"


def _interval(found: Difference) -> str:
    return f"{_number(found.mean)} [{_number(found.low)}, {_number(found.high)}]"


def _span(found: Difference) -> str:
    return f"95 % interval {_number(found.low)} to {_number(found.high)}"


def _number(value: float, digits: int = 3, sign: bool = True) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value + 0.0:+.{digits}f}" if sign else f"{value:.{digits}f}"
