"""Linear mode connectivity: the loss on the straight line between two models' weights (Frankle et al. 2020)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import logits_of
from dissimilarity.capture.hooks import first_result, undisturbed
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.losses import check_tokens, sequence_losses
from dissimilarity.stitching.penalty import device_of, paired


@dataclass(frozen=True)
class Barrier:
    """The barrier between two models; of `barrier` in nats per token.

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

    def losses(output: Any, rows: slice) -> Tensor:
        return sequence_losses(logits_of(output), tokens[rows])

    return barrier_of(scores_between(model_a, model_b, tokens, losses, points))


def scores_between(
    model_a: nn.Module,
    model_b: nn.Module,
    tokens: Int[Tensor, "sequences pos"],
    score: Callable[[Any, slice], Tensor],
    points: int = 11,
) -> Float[Tensor, "points sequences *scores"]:
    """What each sequence scores at points on the line between the weights of two models, at equal distances.

    Args:
        model_a, model_b, tokens, points: as for `barrier`.
        score: what a model returned for some of the sequences, and which these are -> the score of each: (rows, ...).

    Returns:
        float64 on the CPU, the first point model_a, the last model_b.

    Raises:
        ValueError: as for `barrier`.
    """
    if points < 3:
        raise ValueError(f"expected at least 3 points, both ends counted, found {points}; 11 is usual")
    a, b = model_a.state_dict(), model_b.state_dict()
    _check_alike(a, b)
    between, found = deepcopy(model_a), []
    batches = [
        slice(start, stop) for start, stop, _ in cut_sequences(len(tokens), 1, sequences_per_batch(tokens.shape[1]))
    ]
    for index in range(points):
        share = index / (points - 1)
        mixed = {
            name: torch.lerp(weight, b[name].to(weight), share) if weight.is_floating_point() else weight
            for name, weight in a.items()
        }
        between.load_state_dict(mixed)
        with undisturbed(between):
            parts = [score(first_result(between(tokens[rows].to(device_of(between)))), rows) for rows in batches]
        found.append(torch.cat(parts).double().cpu())
    return torch.stack(found)


def barrier_of(losses: Float[Tensor, "points sequences"]) -> Barrier:
    """The barrier in losses, or errors, of sequences at points of equal distances."""
    t = [index / (len(losses) - 1) for index in range(len(losses))]
    excess = [paired(loss, torch.lerp(losses[0], losses[-1], share)) for loss, share in zip(losses, t, strict=True)]
    highest = max(range(len(t)), key=lambda index: excess[index][0])
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
