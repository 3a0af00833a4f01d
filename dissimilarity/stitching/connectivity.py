"""Linear mode connectivity: the loss on the straight line between two models' weights (Frankle et al. 2020)."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.sites import LOGITS
from dissimilarity.stitching.losses import check_tokens, sequence_losses
from dissimilarity.stitching.penalty import batches_of, paired, run


@dataclass(frozen=True)
class Barrier:
    """The barrier between two models, nats per token.

    Attributes:
        value: max over t of L((1-t) A + t B) - [(1-t) L(A) + t L(B)]; 0 at least, since it is 0 at both ends.
        stderr: of value at its t, over sequences, paired.
        at: the t of the maximum.
        t: the points, from 0 (A) to 1 (B).
        losses: L at each point.
    """

    value: float
    stderr: float
    at: float
    t: tuple[float, ...]
    losses: tuple[float, ...]


def barrier(model_a: nn.Module, model_b: nn.Module, tokens: Int[Tensor, "sequences pos"], points: int = 11) -> Barrier:
    """The loss barrier on the line between the weights of two models, which are left as they are.

    Args:
        model_a, model_b: called as `model(tokens)`, of equal state dicts; one copy is made.
        tokens: at least 2 sequences.
        points: models on the line, both ends counted.

    Raises:
        ValueError: weights of other names or shapes, buffers of whole numbers that differ, fewer than 3 points.
    """
    check_tokens(tokens, 2, "tokens")
    if points < 3:
        raise ValueError(f"expected at least 3 points, both ends counted, found {points}; 11 is usual")
    a, b = model_a.state_dict(), model_b.state_dict()
    _check_alike(a, b)
    between = deepcopy(model_a)
    t = [index / (points - 1) for index in range(points)]
    losses = []
    for share in t:
        mixed = {
            name: torch.lerp(weight, b[name].to(weight), share) if weight.is_floating_point() else weight
            for name, weight in a.items()
        }
        between.load_state_dict(mixed)
        parts = [sequence_losses(run(between, batch, [])[LOGITS], batch) for batch in batches_of(tokens)]
        losses.append(torch.cat(parts).double().cpu())
    excess = [paired(loss, torch.lerp(losses[0], losses[-1], share)) for loss, share in zip(losses, t, strict=True)]
    highest = max(range(points), key=lambda index: excess[index][0])
    return Barrier(*excess[highest], t[highest], tuple(t), tuple(float(loss.mean()) for loss in losses))


def _check_alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Raise ValueError for state dicts between which there is no line."""
    alone = sorted(a.keys() ^ b.keys())
    shapes = [name for name in a if name in b and a[name].shape != b[name].shape]
    whole = [
        name
        for name in a
        if name in b and name not in shapes and not a[name].is_floating_point() and not bool((a[name] == b[name]).all())
    ]
    if not (alone or shapes or whole):
        return
    name = (alone or shapes or whole)[0]
    if alone:
        found = f"only one of them has {name}"
    elif shapes:
        found = f"{name} has shapes {tuple(a[name].shape)} and {tuple(b[name].shape)}"
    else:
        found = f"{name}, whole numbers, differs"
    more = len(alone) + len(shapes) + len(whole) - 1
    raise ValueError(
        f"expected two models of equal weights by name and shape, found that {found}"
        f"{f', and {more} more that differ' if more else ''}; compare models of one family and size"
    )
