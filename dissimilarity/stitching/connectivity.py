"""Linear mode connectivity: the loss on the straight line between two models' weights (Frankle et al. 2020)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import logits_of
from dissimilarity.capture.forward import first_result, undisturbed
from dissimilarity.capture.hooks import device_of
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.losses import check_tokens, sequence_losses
from dissimilarity.stitching.penalty import paired


@dataclass(frozen=True)
class Barrier:
    """The barrier between two models, in nats per token if it comes from `barrier`.

    Attributes:
        value: max over t of L((1-t) A + t B) - [(1-t) L(A) + t L(B)]; at least 0, because it is 0 at both ends.
        stderr: standard error of the value at its t, over sequences, paired.
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
    """Return the loss barrier on the straight line between the weights of two models.

    Args:
        model_a: one end, called as `model(tokens)`. One copy is made; neither model is changed.
        model_b: the other end, with weights of the same names and shapes.
        tokens: at least 2 sequences.
        points: models on the line, including both ends.

    Raises:
        ValueError: weights with different names or shapes, integer buffers that differ, or fewer than 3 points.

    Examples:
        >>> import torch
        >>> embed = lambda: nn.Sequential(nn.Embedding(5, 5))
        >>> a, b = embed(), embed()
        >>> _ = b.load_state_dict(a.state_dict())
        >>> barrier(a, b, torch.tensor([[0, 1, 2], [2, 3, 4]]), points=3).value
        0.0
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
    """Return the score of each sequence at equally spaced points on the line between the weights of two models.

    Args:
        model_a: one end, as for `barrier`.
        model_b: the other end.
        tokens: the sequences.
        score: (a model's result for some sequences, the slice of these sequences) -> a score per sequence, with any
            further dimensions.
        points: models on the line, including both ends.

    Returns:
        float64 on the CPU; the first point is model_a, the last model_b.

    Raises:
        ValueError: as for `barrier`.
    """
    if points < 3:
        raise ValueError(f"expected at least 3 points, including both ends, found {points}; 11 is usual")
    a, b = model_a.state_dict(), model_b.state_dict()
    _check_alike(a, b)
    between, scores = deepcopy(model_a), []
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
        scores.append(torch.cat(parts).double().cpu())
    return torch.stack(scores)


def barrier_of(losses: Float[Tensor, "points sequences"]) -> Barrier:
    """Return the barrier in the losses, or errors, of sequences at equally spaced points.

    Examples:
        >>> losses = torch.tensor([[1.0, 1.0], [2.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
        >>> barrier_of(losses).value, barrier_of(losses).at
        (1.5, 0.5)
    """
    t = [index / (len(losses) - 1) for index in range(len(losses))]
    excess = [paired(loss, torch.lerp(losses[0], losses[-1], share)) for loss, share in zip(losses, t, strict=True)]
    highest = max(range(len(t)), key=lambda index: excess[index][0])
    return Barrier(*excess[highest], t[highest], tuple(t), tuple(float(loss.mean()) for loss in losses))


def _check_alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Raise ValueError if there is no straight line between two state dicts."""
    unmatched = sorted(a.keys() ^ b.keys())
    shapes = [name for name in a if name in b and a[name].shape != b[name].shape]
    integers = [
        name
        for name in a
        if name in b and name not in shapes and not a[name].is_floating_point() and not bool((a[name] == b[name]).all())
    ]
    if not (unmatched or shapes or integers):
        return
    name = (unmatched or shapes or integers)[0]
    if unmatched:
        difference = f"only one of them has {name}"
    elif shapes:
        difference = f"{name} has shapes {tuple(a[name].shape)} and {tuple(b[name].shape)}"
    else:
        difference = f"the integers in {name} differ"
    further = len(unmatched) + len(shapes) + len(integers) - 1
    raise ValueError(
        f"expected two models with the same names and shapes of weights, found that {difference}"
        f"{f', and {further} more differences' if further else ''}; compare models of one family and size"
    )
