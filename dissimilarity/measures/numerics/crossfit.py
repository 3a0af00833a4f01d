"""Cross-fitting: a map is fitted to one half of the units and scored on the other, both ways.

The plug-in value scores a map on the samples that it was fitted to and is biased toward similar by about d / n. On the
other half, the map is worse than the best one, so the cross-fitted value is biased toward dissimilar, and the two
bracket the truth (Stone 1974; Chernozhukov et al. 2018 for the name).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.numerics.whitening import Whitening
from dissimilarity.moments.halves import halves_of
from dissimilarity.moments.pair import Moments, centered

SHARED = 0.25
"""How much of (held-out minus fitted influence) is added to the influence of a unit.

Let e and f be the sampling errors of the two halves. Near the best map, the value of each direction is linear in the
half that it is scored on, and both have the same product b(e, f) of the errors: a map that errs toward e is scored on
f, and one that errs toward f on e. A map's own error also costs a square, q(e) or q(f), whose variance is half of the
product's for least squares, so the mean of both directions has 1 + 1/4 times the variance of the product. Half the
held-out influence alone would give it half. The held-out minus the fitted influence is the product as seen from each
half, so with k times it added, the variance is 2 ((1/2 + k)^2 + k^2) times the product's: 1 + 1/4 for k = 1/4.
"""

Fitted = TypeVar("Fitted")


def cross_fitted(
    m: Moments,
    fit: Callable[[Moments], Fitted],
    score: Callable[[Fitted, Moments], Float[Tensor, "*pairs"]],
) -> Float[Tensor, "*pairs"]:
    """Return the mean of the scores of two maps, each fitted to one half of the units and scored on the other.

    The derivative is that of the scores with maps held fixed, since a map at its optimum has none, and of the product
    of both halves' errors that the scores have in common (see ``SHARED``).

    Args:
        m: the sums over all samples and over those of the first half.
        fit: returns the map of a half, from its sums.
        score: returns the value of a map on a half.
    """
    halves = halves_of(m)
    maps = [fit({key: value.detach() for key, value in half.items()}) for half in halves]
    held_out = score(maps[0], halves[1]) + score(maps[1], halves[0])
    if not held_out.requires_grad:
        return held_out / 2
    product = held_out - score(maps[0], halves[0]) - score(maps[1], halves[1])
    return held_out / 2 + SHARED * (product - product.detach())


def directions(whitening: Whitening, mixed: Float[Tensor, "*pairs k _"]) -> Float[Tensor, "*pairs p _"]:
    """Return W U: combinations of the columns of a side, from those of its uncorrelated coordinates."""
    width = whitening.scale.shape[-1]
    identity = torch.eye(width, dtype=mixed.dtype, device=mixed.device).expand(*mixed.shape[:-2], width, width)
    return whitening(identity).mT @ mixed


@dataclass(frozen=True)
class Directions:
    """Pairs of directions, one of each side.

    Attributes:
        x: directions of the first side, zero beyond the rank.
        y: directions of the second side.
        rank_x: rank of the first side.
        rank: the smaller rank of both sides, which is the number of pairs.
    """

    x: Float[Tensor, "*pairs p r"]
    y: Float[Tensor, "*pairs q r"]
    rank_x: Float[Tensor, "*pairs"]
    rank: Float[Tensor, "*pairs"]


def canonical_directions(m: Moments, x: Whitening, y: Whitening, between: Float[Tensor, "*pairs k l"]) -> Directions:
    """Return the directions of both sides whose correlations are canonical.

    Args:
        m: the sums.
        x: whitening of the first side.
        y: whitening of the second side.
        between: their canonical matrix.

    Raises:
        ValueError: too few samples to determine them.
    """
    check_ranks(m, x.rank, y.rank)
    left, values, right = torch.linalg.svd(between, full_matrices=False)
    rank = x.rank.minimum(y.rank)
    is_paired = (torch.arange(values.shape[-1], device=values.device) < rank[..., None])[..., None, :]
    return Directions(directions(x, left) * is_paired, directions(y, right.mT) * is_paired, x.rank, rank)


def correlations(maps: Directions, m: Moments) -> Float[Tensor, "*pairs r"]:
    """Return the correlation of each pair of directions; 0 where a direction is constant."""
    xx, yy, xy = centered(m)
    covariance, variance_x, variance_y = (
        (a * (product @ b)).sum(-2)
        for a, product, b in ((maps.x, xy, maps.y), (maps.x, xx, maps.x), (maps.y, yy, maps.y))
    )
    varies = (variance_x > 0) & (variance_y > 0)
    lengths = torch.where(varies, variance_x * variance_y, 1.0).sqrt()
    return torch.where(varies, covariance / lengths, 0.0)


def check_ranks(m: Moments, x: Float[Tensor, "*pairs"], y: Float[Tensor, "*pairs"]) -> None:
    """Check that a half determines the map that is fitted to it.

    The spans of two sides of n centered samples meet in rank_x + rank_y - (n - 1) dimensions or more, whatever the
    data. Where they meet, the fit is perfect and says nothing.

    Args:
        m: the sums of the half.
        x: rank of the first side.
        y: rank of the second side; 1 where each of its columns is fitted alone.

    Raises:
        ValueError: spans that meet in any case.
    """
    n, rank_x, rank_y = (value.reshape(-1) for value in torch.broadcast_tensors(m["n"], x, y))
    spare = n - rank_x - rank_y
    if bool((spare < 1).any()):
        worst = int(spare.argmin())
        samples, first, second = (int(value[worst]) for value in (n, rank_x, rank_y))
        raise ValueError(
            f"a half of {samples} samples does not determine a map of {first} directions to {second}, which needs at "
            f"least {first + second + 1}; pass more samples, or leave out crossfit"
        )
