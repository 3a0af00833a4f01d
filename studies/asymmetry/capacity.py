"""The capacity conjecture: do families that stitch worse have sparser activations, or use fewer dimensions?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.stitching.penalty import batches_of
from studies.asymmetry.numbers import Record, select
from studies.asymmetry.stitches import HeldOutText, ModelAtStep, Stitches
from studies.common.format import number, p_value, plus_minus, table_head, table_row
from studies.common.resampling import finite_mean, mean_interval, rank_correlation

PERMUTATIONS = 9999
CORRELATIONS = (
    ("sparsity", "into_base"),
    ("effective_rank", "into_base"),
    ("loss", "into_base"),
    ("sparsity", "from_base"),
    ("effective_rank", "from_base"),
)
"""Pairs of property and penalty. The penalty from the base family contains the loss of the model itself."""


@dataclass(frozen=True)
class Capacity:
    """Records of further stitches, and one entry per model with its sparsity, effective rank and penalties."""

    records: list[Record]
    models: list[dict[str, Any]]


def capacity(
    main: Sequence[ModelAtStep],
    others: Sequence[ModelAtStep],
    base: str,
    stitches: Stitches,
    text: HeldOutText,
    terminal: Console,
) -> Capacity:
    """Stitch every model of one depth into the base family and out of it, and measure its activations.

    Args:
        main: the models of the study at their end.
        others: further families and a narrower base family, all of one depth.
        base: the family that all models are stitched with, at the largest width.
        stitches: measures stitches, or reads them from the journal.
        text: held-out text.
        terminal: shows progress.
    """
    if not others:
        return Capacity([], [])
    same_depth = [model for model in main if model.depth == others[0].depth]
    widest = max(model.width for model in same_depth)
    main = [model for model in same_depth if model.width == widest]
    bases = [model for model in main if model.family == base]
    sites = others[0].sites
    pairs = [(site, site) for site in sites]
    records: list[Record] = []
    models = []
    for place, model in enumerate((*main, *others), 1):
        with terminal.status(f"capacity of {escape(model.run)} ({place} of {len(main) + len(others)})"):
            into_base, from_base = [], []
            for partner in bases:
                if partner.run != model.run and partner.init_seed != model.init_seed:
                    into_base += stitches.direct(model, partner, "affine", pairs)
                    from_base += stitches.direct(partner, model, "affine", pairs)
            self_stitches = stitches.direct(model, model, "affine", pairs)
            if model not in main:  # those of the main models are in the table already
                records += [*into_base, *from_base, *self_stitches]
            models.append(
                {
                    "run": model.run,
                    "family": model.family if model.width == widest else f"{model.family}, width {model.width}",
                    "loss": self_stitches[0]["loss_back"],
                    **activity(model, text, sites),
                    "into_base": float(np.mean([record["penalty"] for record in into_base])),
                    "from_base": float(np.mean([record["penalty"] for record in from_base])),
                }
            )
    return Capacity(records, models)


def activity(model: ModelAtStep, text: HeldOutText, sites: Sequence[str]) -> dict[str, float]:
    """Measure how much of its capacity a model uses, in one pass over the held-out text.

    Returns:
        sparsity: 1 - (mean |a|)^2 / mean a^2 of the neurons after the activation (Treves & Rolls 1991): 0 = all equal,
            1 = a single one. effective_rank: exp of the entropy of the covariance's eigenvalues (Roy & Vetterli 2007),
            averaged over the sites.
    """
    total = square = 0.0
    count = 0
    streams: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for batch in batches_of(text.held_out):
        with capture(model.net, ["blocks.*.mlp.post", *sites]) as acts:
            model.net(batch.to(device_of(model.net)))
        for site, values in acts.items():
            if site in streams:
                streams[site].append(values.flatten(0, 1).double())
            else:
                total += float(values.double().abs().sum())
                square += float(values.double().square().sum())
                count += values.numel()
    ranks = []
    for chunks in streams.values():
        eigenvalues = torch.linalg.eigvalsh(torch.cat(chunks).T.cov()).clamp_min(0)
        ranks.append(float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp()))
    return {"sparsity": 1 - (total / count) ** 2 / (square / count), "effective_rank": float(np.mean(ranks))}


def capacity_lines(models: Sequence[Record], base: str) -> list[str]:
    """Return the table of families and the correlations of the penalty, as lines of Markdown."""
    lines = [
        f"Direct penalties with independent {base} models, averaged over layers; sparsity of the neurons "
        "(1 - (mean |a|)^2 / mean a^2) and effective rank of the residual stream.",
        "",
        *table_head("family", "loss", "sparsity", "effective rank", f"into {base}", f"from {base}"),
    ]
    keys = ("loss", "sparsity", "effective_rank", "into_base", "from_base")
    for family in dict.fromkeys(model["family"] for model in models):
        members = select(models, family=family)
        means = [mean_interval([model[key] for model in members]) for key in keys]
        lines.append(table_row(family, *(plus_minus(mean, half, ".3g") for mean, half in means)))
    lines += ["", "Correlations over families, whose means are permuted: models of one family say the same thing.", ""]
    for key, target in CORRELATIONS:
        rho, p = over_families(models, key, target)
        lines.append(
            f"- Spearman correlation of {key.replace('_', ' ')} with the penalty {target.split('_')[0]} {base}: "
            f"{number(rho, 2)} ({p_value(p)})."
        )
    return lines


def over_families(models: Sequence[Record], key: str, target: str) -> tuple[float, float]:
    """Return Spearman's correlation of the means of families, and its p value by permuting families."""
    families = list(dict.fromkeys(model["family"] for model in models))
    values, penalties = (
        [finite_mean([model[name] for model in select(models, family=family)]) for family in families]
        for name in (key, target)
    )
    return rank_correlation(values, penalties, PERMUTATIONS, min_points=4)
