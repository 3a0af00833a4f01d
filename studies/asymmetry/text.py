"""The summary of the study `asymmetry`, written from its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.inference.coverage import FEWEST_MODELS, SEEDS
from studies.asymmetry.capacity import capacity_lines
from studies.asymmetry.differences import Difference
from studies.asymmetry.numbers import (
    CLAIMS,
    CRITERIA,
    KINSHIPS,
    READINGS,
    Record,
    at_equal_losses,
    layer_of,
    paired_differences,
    same_shape,
    select,
)
from studies.asymmetry.stability import stability_lines
from studies.common.format import interval, interval_in_words, number, plus_minus, table_head, table_row
from studies.common.resampling import mean_interval

DIRECTIONS = {
    "holds": "the paper's direction",
    "reversed": "the other direction",
    "open": "no direction",
    "no verdict": "no verdict",
}


def summary(findings: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """Return the summary, one page of Markdown."""
    families = findings["families"]
    first, second = families
    lines = [f"# Does stitching {first} into {second} cost more than {second} into {first}?", ""]
    lines += [_answer(findings), ""]
    lines += ["## The models", "", *_losses(findings["records"]), "", *_methods(notes)]
    lines += ["", "## The paper's claims", "", "Exploratory, but for the primary claim.", "", *_claims(findings)]
    lines += ["", "## The sign over fits, shapes and training", "", *stability_lines(findings["records"], families)]
    lines += ["", "## What penalties mean: self-stitches and nulls", "", *_nulls(findings)]
    if findings["capacity"]:
        lines += ["", "## Capacity", "", *capacity_lines(findings["capacity"], second)]
    lines += ["", "## Without a map", "", *_identity(findings)]
    return "\n".join(lines) + "\n"


def terminal_tables(findings: Mapping[str, Any]) -> list[FittedTable]:
    """Return the claims by every criterion."""
    table = FittedTable("the paper's claims: mean difference, nats/token", drop=["cells above 0"])
    for column in ("claim", "models", "fit, reading", "verdict", "difference [95% interval]", "cells above 0"):
        table.add_column(column)
    last = ("", "")
    for (name, kinship, *criterion), claim in findings["claims"].items():
        labels = ("", "") if (name, kinship) == last else (name, kinship)
        if all(labels) and any(last):
            table.add_section()
        last = (name, kinship)
        table.add_row(
            *labels, _criterion(*criterion), claim.verdict, interval(claim), f"{claim.positive}/{claim.cells}"
        )
    return [table]


def _answer(findings: Mapping[str, Any]) -> str:
    """Return the first paragraph: the primary claim, then what is exploratory."""
    primary, claim = findings["primary"], findings["primary_claim"]
    words = f"{_criterion(primary.fit, primary.reading)}, {primary.where}"
    sentences = [
        f"{_cost(findings['families'], primary.kinship, claim, words)} This is the primary claim; everything else is "
        "exploratory."
        if math.isfinite(claim.mean)
        else f"No {primary.kinship} models were stitched in both directions, so the primary claim has no value; "
        "everything here is exploratory."
    ]
    for kinship in KINSHIPS:
        paper = findings["claims"]["A", kinship, *CRITERIA[0]]
        sound = findings["claims"]["A", kinship, "task", "excess"]
        by_criterion = [(paper, "the paper's criterion (raw loss, cold start)")]
        if (kinship, "task", "excess", "all") != (primary.kinship, primary.fit, primary.reading, primary.layer):
            by_criterion.insert(
                0, (sound, "trained stitches minus what each model loses when it is stitched to itself")
            )
        sentences += [
            _cost(findings["families"], kinship, claim, words)
            for claim, words in by_criterion
            if math.isfinite(claim.mean)
        ]
    first, second = findings["families"]
    for kinship in KINSHIPS:
        direct = same_shape(findings["records"], "direct")
        line = at_equal_losses(paired_differences(direct, findings["families"], kinship, "penalty"))
        if math.isfinite(line.mean):
            sentences.append(
                f"Between {kinship} models with equal losses, a direct stitch {first} -> {second} would cost "
                f"{number(line.mean)} more ({interval_in_words(line)}), on a line through all pairs and checkpoints."
            )
    return " ".join(sentences)


def _cost(families: Sequence[str], kinship: str, claim: Difference, words: str) -> str:
    first, second = families
    return (
        f"Between {kinship} models {first} -> {second} costs {number(claim.mean)} nats/token more than "
        f"{second} -> {first} ({interval_in_words(claim)}; {DIRECTIONS[claim.verdict]}), by {words}."
    )


def _losses(records: Sequence[Record]) -> list[str]:
    """Return the losses of the models themselves, by family, width and depth."""
    lines = table_head("family", "width", "depth", "loss, nats/token, mean over seeds and 95% half-width")
    by_shape: dict[tuple[str, int, int], dict[str, float]] = {}
    for record in records:
        if record["last"]:
            shape = (record["family_back"], record["width_back"], record["depth"])
            by_shape.setdefault(shape, {})[record["back"]] = record["loss_back"]
    for (family, width, depth), losses in by_shape.items():
        mean, half = mean_interval(list(losses.values()))
        lines.append(table_row(family, str(width), str(depth), f"{plus_minus(mean, half)} ({len(losses)} models)"))
    return lines


def _methods(notes: Mapping[str, Any]) -> list[str]:
    text, steps = notes["text"], notes["stitch_steps"]
    published = ["Each of these models was published at one step of its training, written as step 0.", ""]
    return [
        *(published if notes["published"] else []),
        f"Maps are fitted on {text['fit']} sequences of {text['length']} tokens that no model was trained on; "
        f"penalties are measured on {text['held_out']} others. Siblings share initial weights and the order of their "
        "text. `direct` is the least-squares affine map. `task` starts from it and is trained on the back model's loss "
        f"until the loss stops falling on held-out sequences, for at most {steps} steps. `paper` is affine + LayerNorm "
        f"from random weights, trained for {steps} steps by the paper's recipe, which took 2,000. Intervals are over "
        f"models. {SEEDS} Each model (for siblings, each seed) is left out in turn (jackknife, Student's t). Fewer "
        f"than {FEWEST_MODELS} per family have no interval and no verdict.",
    ]


def _claims(findings: Mapping[str, Any]) -> list[str]:
    families = findings["families"]
    lines = [f"- {name}: {text.format(*families)}." for name, (text, _) in CLAIMS.items()]
    lines += [
        "",
        "Nats per token, averaged over layers and depths, [95% interval over models], and the number of cells (depth "
        "x layer) whose mean is above 0. A claim `holds` or is `reversed` if the interval excludes 0. C is tested in "
        "both directions: its interval spans those of the two, and its mean is that of the cheaper one. For "
        "independent models, B and C use stitches between models of one family instead of self-stitches. For "
        "siblings, the penalty minus self of a model with itself is 0 by definition, and direct and trained stitches "
        "start at the identity; B then measures what the paper's cold start loses.",
        "",
        *table_head("claim", "models", *(_criterion(*criterion) for criterion in CRITERIA)),
    ]
    for name in CLAIMS:
        for kinship in KINSHIPS:
            claims = [findings["claims"][name, kinship, *criterion] for criterion in CRITERIA]
            cells = [f"{claim.verdict}: {interval(claim)}, {claim.positive}/{claim.cells}" for claim in claims]
            lines.append(table_row(name, kinship, *cells))
    return lines


def _nulls(findings: Mapping[str, Any]) -> list[str]:
    records = findings["records"]
    direct = select(same_shape(records, "direct"), last=True)
    kinds = [("each model with itself", select(direct, kinship="self"))]
    for kinship in KINSHIPS:
        across = [record for record in direct if record["family_front"] != record["family_back"]]
        kinds.append((f"across families, {kinship}", select(across, kinship=kinship)))
    kinds += [
        ("front with random weights", select(records, fit="null_random")),
        ("front reads other sequences", select(records, fit="null_shuffled")),
    ]
    lines = table_head("stitch (direct, affine; mean over all cells)", "penalty, nats/token")
    for name, members in kinds:
        if members:
            lines.append(table_row(name, number(float(np.mean([record["penalty"] for record in members])))))
    solved = select(records, fit="direct", kind="affine")
    ridges = sum(bool(record["ridge"]) for record in solved)
    notes = sorted({record["note"] for record in records if record["note"]})
    lines += ["", f"{ridges} of {len(solved)} direct stitches needed a ridge (column `ridge`)."]
    return lines + [f"- {note} ({sum(record['note'] == note for record in records)} stitches)" for note in notes]


def _identity(findings: Mapping[str, Any]) -> list[str]:
    identity = [record for record in findings["records"] if record["kind"] == "identity"]
    within = [record for record in identity if record["kinship"] == "self" and record["site"] != record["back_site"]]
    siblings = [record["penalty"] for record in identity if record["kinship"] == "sibling"]
    lines = []
    if within:
        skipping, repeating = (
            [record["penalty"] for record in within if _skips(record) is skips] for skips in (True, False)
        )
        lines.append(
            f"- Identity stitches within one model: skipping layers costs {number(float(np.mean(skipping)))} "
            f"nats/token on average, repeating them {number(float(np.mean(repeating)))}."
        )
    if siblings:
        mean = number(float(np.mean(siblings)))
        lines.append(f"- Identity stitches between siblings of the two families cost {mean} nats/token.")
    for kinship in KINSHIPS:
        barriers = [record["barrier"] for record in select(findings["barriers"], kinship=kinship)]
        if barriers:
            lines.append(
                f"- Loss barrier on the line between {kinship} models of one family: {np.mean(barriers):.3f} "
                f"nats/token on average, {min(barriers):.3f} to {max(barriers):.3f} ({len(barriers)} pairs)."
            )
    return lines or ["Nothing was measured."]


def _skips(record: Record) -> bool:
    return layer_of(record["site"]) < layer_of(record["back_site"])


def _criterion(fit: str, reading: str) -> str:
    return f"{fit}, {READINGS[reading]}"
