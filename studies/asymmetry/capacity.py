"""The capacity conjecture: do families that stitch worse have sparser activations, or fewer dimensions in use?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.stitching.penalty import batches_of
from studies.asymmetry.numbers import Row, mean_interval, rank_correlation, select
from studies.common.format import number

if TYPE_CHECKING:
    from studies.asymmetry.stitches import Model, Stitches, Text


@dataclass(frozen=True)
class Capacity:
    """Rows of further stitches, and one line a model with its sparsity, effective rank and penalties."""

    rows: list[dict[str, Any]]
    models: list[dict[str, Any]]


def capacity(
    main: "Sequence[Model]", more: "Sequence[Model]", base: str, stitches: "Stitches", text: "Text", terminal: Any
) -> Capacity:
    """Stitches every model of one depth into those of the base family and out of them, and looks at its activations.

    Args:
        main: the models of the study, at their end.
        more: further families and a narrower base family, of one depth.
        base: the family that all are stitched with; of one width, the widest.
        stitches, text: as for the study.
        terminal: for progress.
    """
    if not more:
        return Capacity([], [])
    depth = more[0].depth
    here = [model for model in main if model.depth == depth]
    widest = max(model.width for model in here)
    here = [model for model in here if model.width == widest]
    bases = [model for model in here if model.family == base]
    sites = more[0].sites
    pairs = [(site, site) for site in sites]
    rows: list[dict[str, Any]] = []
    models = []
    everyone = [*here, *more]
    for place, model in enumerate(everyone, 1):
        with terminal.status(f"capacity of {model.run} ({place} of {len(everyone)})"):
            into, out = [], []
            for other in bases:
                if other.run != model.run and other.init_seed != model.init_seed:
                    into += stitches.direct(model, other, "affine", pairs)
                    out += stitches.direct(other, model, "affine", pairs)
            own = stitches.direct(model, model, "affine", pairs)
            known = model in here
            rows += [] if known else [*into, *out, *own]
            models.append(
                {
                    "run": model.run,
                    "family": model.family if model.width == widest else f"{model.family}, width {model.width}",
                    "loss": own[0]["loss_back"],
                    **activity(model, text, sites),
                    "into_base": float(np.mean([row["penalty"] for row in into])),
                    "from_base": float(np.mean([row["penalty"] for row in out])),
                }
            )
    return Capacity(rows, models)


def activity(model: "Model", text: "Text", sites: Sequence[str]) -> dict[str, float]:
    """What a model makes use of, from one pass over the held-out text.

    Returns:
        sparsity: 1 - (mean |a|)^2 / mean a^2 of the neurons after the activation (Treves & Rolls 1991): 0 = all alike,
        1 = one. effective_rank: exp of the entropy of the covariance's eigenvalues (Roy & Vetterli 2007), mean over the
        sites.
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
    for parts in streams.values():
        values = torch.linalg.eigvalsh(torch.cat(parts).T.cov()).clamp_min(0)
        ranks.append(float(torch.special.entr(values / values.sum()).sum().exp()))
    return {"sparsity": 1 - (total / count) ** 2 / (square / count), "effective_rank": float(np.mean(ranks))}


def in_words(models: Sequence[Row], base: str) -> list[str]:
    """The table of families and what the penalty goes with, as lines of Markdown."""
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
                f"- Spearman correlation of {name} and the penalty {words}: {number(rho, 2)} "
                f"(p = {number(p, 3, False)})."
            )
    return lines
