"""What the study `asymmetry` found, in words that the numbers write."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from studies.asymmetry.capacity import in_words
from studies.asymmetry.numbers import (
    CLAIMS,
    KINSHIPS,
    READINGS,
    WAYS,
    Difference,
    Row,
    at_equal_losses,
    both_ways,
    layer_of,
    mean_interval,
    of_main,
    select,
)
from studies.asymmetry.stability import stability
from studies.common.format import interval, number, span


def summary(found: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """One page of Markdown."""
    families = found["families"]
    first, second = families
    lines = [f"# Is stitching {first} into {second} dearer than {second} into {first}?", "", _answer(found), ""]
    lines += ["## The models", "", *_losses(found["rows"]), "", *_means(notes)]
    lines += ["", "## The paper's claims", "", *_claims(found)]
    lines += ["", "## Where the sign is stable", "", *stability(found["rows"], families)]
    lines += ["", "## What a penalty of 0 and of nothing in common would look like", "", *_nulls(found)]
    if found["capacity"]:
        lines += ["", "## Capacity", "", *in_words(found["capacity"], second)]
    lines += ["", "## Without a map", "", *_partners(found)]
    return "\n".join(lines) + "\n"


def terminal_tables(found: Mapping[str, Any]) -> list[Table]:
    """The claims in every reading."""
    table = Table(title="the paper's claims: mean difference, nats/token")
    for column in ("claim", "models", "fit, reading", "verdict", "difference [95 % interval]", "cells above 0"):
        table.add_column(column)
    last = ("", "")
    for (name, kinship, *way), each in found["claims"].items():
        shown = ("", "") if (name, kinship) == last else (name, kinship)
        if all(shown) and any(last):
            table.add_section()
        last = (name, kinship)
        table.add_row(*shown, _way(*way), each.verdict, interval(each), f"{each.positive}/{each.cells}")
    return [table]


def _answer(found: Mapping[str, Any]) -> str:
    """The first paragraph: the asymmetry in the reading that is right, against the paper's."""
    first, second = found["families"]
    parts = []
    for kinship in KINSHIPS:
        paper, right = (found["claims"]["A", kinship, *way] for way in (("paper", "loss_stitched"), ("task", "excess")))
        if not right.pairs:
            continue
        parts.append(
            f"Between {kinship} models {first} -> {second} costs {number(right.mean)} nats/token more than "
            f"{second} -> {first} ({span(right)}; {right.pairs} pairs of models; {_words(right)}) by trained stitches "
            f"less what each model loses in stitching to itself; read the paper's way (raw loss, cold start) it is "
            f"{number(paper.mean)} ({span(paper)}; {_words(paper)})."
        )
    for kinship in KINSHIPS:
        line = at_equal_losses(both_ways(of_main(found["rows"], "direct"), found["families"], kinship, "penalty"))
        if math.isfinite(line.mean):
            parts.append(
                f"Of {kinship} models with equal losses a direct stitch {first} -> {second} would cost "
                f"{number(line.mean)} more ({span(line)}), by a line through all pairs and points of training."
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
    published = (
        ["These were published at one point of their training, which is written as step 0.", ""]
        if notes["published"]
        else []
    )
    return [
        *published,
        f"Maps are fitted on {text['fit']} sequences of {text['length']} tokens that no model was trained on, and "
        f"penalties are measured on {text['held_out']} others. Siblings have the same starting weights and order of "
        "text. `direct` is the affine map of least squares; `task` starts there and follows the back model's loss "
        "until that stops falling on sequences held out, or "
        f"{notes['stitch_steps']} steps are done; `paper` is affine + LayerNorm from random weights, "
        f"{notes['stitch_steps']} steps of the paper's recipe, which took 2,000. Intervals are "
        "bootstraps over pairs of models; with three pairs they are too narrow.",
    ]


def _claims(found: Mapping[str, Any]) -> list[str]:
    families = found["families"]
    lines = [f"- {name}: {text.format(*families)}." for name, (text, _) in CLAIMS.items()]
    lines += [
        "",
        "In nats per token, mean over layers and depths, [95 % interval], and in how many cells (depth x layer) the "
        "mean is above 0. `holds` and `reversed` where the interval leaves 0 on one side. For independent models B and "
        "C read stitches between models of one family in the place of self-stitches; for siblings, penalty minus self "
        "of a model with itself is 0 by definition, and direct and trained stitches start at the identity, so B "
        "asks there for what the paper's cold start loses.",
        "",
        "| claim | models | " + " | ".join(_way(*way) for way in WAYS) + " |",
        "| --- " * (2 + len(WAYS)) + "|",
    ]
    for name in CLAIMS:
        for kinship in KINSHIPS:
            cells = [found["claims"][name, kinship, *way] for way in WAYS]
            shown = [f"{each.verdict}: {interval(each)}, {each.positive}/{each.cells}" for each in cells]
            lines.append(f"| {name} | {kinship} | " + " | ".join(shown) + " |")
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
            lines.append(f"| {name} | {number(float(np.mean([row['penalty'] for row in chosen])))} |")
    solved = select(rows, fit="direct", kind="affine")
    ridges = sum(bool(row["ridge"]) for row in solved)
    noted = sorted({row["note"] for row in rows if row["note"]})
    lines += ["", f"A ridge was chosen in {ridges} of {len(solved)} direct stitches (column `ridge`)."]
    lines += [f"- {note} ({sum(row['note'] == note for row in rows)} stitches)" for note in noted]
    return lines


def _partners(found: Mapping[str, Any]) -> list[str]:
    rows, lines = found["rows"], []
    identity = [row for row in rows if row["kind"] == "identity"]
    within = [row for row in identity if row["kinship"] == "self" and row["site"] != row["back_site"]]
    across = [row for row in identity if row["kinship"] == "sibling"]
    if within:
        ahead, behind = (
            [row["penalty"] for row in within if (layer_of(row["site"]) < layer_of(row["back_site"])) is skips]
            for skips in (True, False)
        )
        lines.append(
            f"- Identity stitches inside one model: skipping layers costs {number(float(np.mean(ahead)))}, repeating "
            f"them {number(float(np.mean(behind)))} nats/token on average."
        )
    if across:
        mean = float(np.mean([row["penalty"] for row in across]))
        lines.append(f"- Identity stitches between siblings of the two families cost {number(mean)} nats/token.")
    for kinship in KINSHIPS:
        chosen = select(found["barriers"], kinship=kinship)
        if chosen:
            mean, half = mean_interval([row["barrier"] for row in chosen])
            lines.append(
                f"- Loss barrier on the line between {kinship} models of one family: {mean:.3f} ± {half:.3f} "
                f"nats/token ({len(chosen)} pairs)."
            )
    return lines or ["Nothing was measured."]


def _way(fit: str, reading: str) -> str:
    return f"{fit}, {READINGS[reading]}"
