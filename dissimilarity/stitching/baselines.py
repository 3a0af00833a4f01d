"""Baselines for a penalty: the same stitch of each model with itself, and nulls."""

from copy import copy, deepcopy

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enterable_sites
from dissimilarity.stitching.penalty import Penalty
from dissimilarity.stitching.stitch import Stitch


def baselines(
    stitch: Stitch,
    tokens: Int[Tensor, "sequences pos"],
    held_out: Int[Tensor, "held pos"],
    random_front: nn.Module | None = None,
    bytes_per_token: float | None = None,
) -> dict[str, Penalty]:
    """Return the penalties of self-stitches and nulls with the kind, fit and budget of a stitch.

    Args:
        stitch: fitted or not; it is not changed.
        tokens: tokens to fit on, as for the stitch itself.
        held_out: held-out tokens, as for the stitch itself.
        random_front: an untrained model of the front's shape; by default `randomized(front)`.
        bytes_per_token: mean over the held-out text, for bits per byte.

    Returns:
        `self_back`: the back model stitched to itself, at its site. `self_front`: the front model stitched to itself,
        left out if it cannot be entered at its site. `null_random`: a front model with random weights.
        `null_shuffled`: a front model that reads other sequences than those that the back model predicts.
    """
    front, back, site, back_site = stitch.front, stitch.back, stitch.site, stitch.back_site
    stitches = {
        "self_back": stitch.between(back, back, back_site, back_site),
        "null_random": stitch.between(random_front or randomized(front), back, site, back_site),
        "null_shuffled": stitch.between(shuffled(front), back, site, back_site),
    }
    if site in enterable_sites(front):
        stitches["self_front"] = stitch.between(front, front, site, site)
    return {name: baseline.fit(tokens).penalty(held_out, bytes_per_token) for name, baseline in stitches.items()}


def shuffled(model: nn.Module) -> nn.Module:
    """Return a model with shared weights that reads, in place of each sequence of a batch, its neighbor.

    Examples:
        >>> shuffled(nn.Identity())(torch.tensor([[1, 1], [2, 2], [3, 3]])).tolist()
        [[3, 3], [1, 1], [2, 2]]
    """
    copied = copy(model)
    vars(copied)["forward"] = lambda tokens: model.forward(tokens.roll(1, 0))
    return copied


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with the entries of each weight matrix in random order.

    The copy keeps the statistics of the weights, and all vectors (biases, scales of norms). If you have an untrained
    model, it is the better null, because training changes the statistics too.

    Args:
        model: the model, which is not changed.
        seed: seed of the random order.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> bool((randomized(layer).weight.sort().values.sum() - layer.weight.sum()).abs() < 1e-6)
        True
    """
    copied = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copied
