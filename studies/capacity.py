"""The capacity conjecture: do families that stitch worse have sparser activations, or fewer dimensions in use?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dissimilarity.capture import capture
from dissimilarity.stitching.penalty import batches_of, device_of

if TYPE_CHECKING:
    from studies.stitches import Model, Stitches, Text


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
    for number, model in enumerate(everyone, 1):
        with terminal.status(f"capacity of {model.run} ({number} of {len(everyone)})"):
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
                    "sparsity": sparsity(model, text),
                    "effective_rank": effective_rank(model, text, sites),
                    "into_base": float(np.mean([row["penalty"] for row in into])),
                    "from_base": float(np.mean([row["penalty"] for row in out])),
                }
            )
    return Capacity(rows, models)


def sparsity(model: "Model", text: "Text") -> float:
    """1 - (mean |a|)^2 / mean a^2 of the neurons after the activation (Treves & Rolls 1991): 0 = all alike, 1 = one."""
    total = square = 0.0
    count = 0
    for batch in batches_of(text.held_out):
        with capture(model.net, "blocks.*.mlp.post") as acts:
            model.net(batch.to(device_of(model.net)))
        for values in acts.values():
            total += float(values.double().abs().sum())
            square += float(values.double().square().sum())
            count += values.numel()
    return 1 - (total / count) ** 2 / (square / count)


def effective_rank(model: "Model", text: "Text", sites: Sequence[str]) -> float:
    """exp of the entropy of the covariance's eigenvalues (Roy & Vetterli 2007), mean over the sites."""
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for batch in batches_of(text.held_out):
        with capture(model.net, list(sites)) as acts:
            model.net(batch.to(device_of(model.net)))
        for site in sites:
            found[site].append(acts[site].flatten(0, 1).double())
    ranks = []
    for parts in found.values():
        values = torch.linalg.eigvalsh(torch.cat(parts).T.cov()).clamp_min(0)
        share = values / values.sum()
        ranks.append(float(torch.special.entr(share).sum().exp()))
    return float(np.mean(ranks))
