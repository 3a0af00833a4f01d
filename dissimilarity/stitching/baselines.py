"""What a penalty is to be read beside: the same stitch of each model with itself, and nulls."""

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
    """The penalties of self-stitches and nulls with a stitch's kind, fit and budget.

    Args:
        stitch: fitted or not; it is left as it is.
        tokens, held_out, bytes_per_token: as for the stitch itself.
        random_front: a model of the front's shape as it was before training; by default `randomized(front)`.

    Returns:
        `self_back`: back stitched to itself, at its site; `self_front`: front stitched to itself, left out where it
        cannot be entered at its site; `null_random`: the front's weights random; `null_shuffled`: the front reads other
        sequences than those that the back model is to predict.
    """
    front, back, site, back_site = stitch.front, stitch.back, stitch.site, stitch.back_site
    wanted = {
        "self_back": stitch.between(back, back, back_site, back_site),
        "null_random": stitch.between(random_front or randomized(front), back, site, back_site),
        "null_shuffled": stitch.between(shuffled(front), back, site, back_site),
    }
    if site in enterable_sites(front):
        wanted["self_front"] = stitch.between(front, front, site, site)
    return {name: each.fit(tokens).penalty(held_out, bytes_per_token) for name, each in wanted.items()}


def shuffled(model: nn.Module) -> nn.Module:
    """The model, its weights shared, reading in the place of each sequence of a batch the next one, never its own."""
    other = copy(model)
    vars(other)["forward"] = lambda tokens: model.forward(tokens.roll(1, 0))
    return other


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a model with the numbers of each weight matrix in random order: their statistics without what they say.

    Vectors (biases, scales of norms) are kept. A model as its own constructor starts it is the better null where there
    is one: training changes the statistics too.
    """
    other = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other
