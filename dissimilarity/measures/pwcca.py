"""Canonical correlations weighted by how much of x each accounts for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.fitted_measure import WHITENED_MINIMUM, FittedMeasure, fitted_moments_of
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.crossfit import Directions, canonical_directions, correlations, cross_fitted
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import (
    Whitening,
    among_largest,
    at_most_one,
    both_sides,
    is_exact,
    principal_turns,
    ties,
    turning,
    whitening,
)
from dissimilarity.moments.pair import Moments, centered, centered_self
from dissimilarity.moments.products import full_float32


def pwcca(x: ArrayLike, y: ArrayLike, crossfit: bool = False, units: ArrayLike | None = None) -> Float[Tensor, ""]:
    """Return projection-weighted CCA of two representations of the same samples, seen from x; see ``PWCCA``.

    sum alpha_i rho_i with weights alpha_i by how much of x each canonical variate accounts for (Morcos et al. 2018).
    Not symmetric; invariant to permutation, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        crossfit: whether to score canonical directions on another half of the units than they are fitted to, both ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar in [0, 1], cross-fitted in [-1, 1]; 1 = one is an invertible linear map of the other. Rises with
        p / n, cross-fitted it falls.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0, 0.0], [1.5, 1.0], [3.0, 0.5], [0.5, 2.0], [0.0, 0.0]]
        >>> print(f"{pwcca(x, x):.4f} {pwcca(x, y):.4f} {pwcca(y, x):.4f}")
        1.0000 0.7043 0.6934
    """
    return pwcca_from_moments(fitted_moments_of(x, y, crossfit, units, dual=False), crossfit)


def pwcca_from_moments(m: Moments, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return the weighted mean from sums."""
    if crossfit:
        return exact_where_same(m, cross_fitted(m, _best_directions, _weighted_correlation), PWCCA.identical)
    x, y, between, xx = both_sides(m)
    root, squares = x.root(xx), between @ between.mT
    values, vectors = torch.linalg.eigh(squares.detach())
    counted = among_largest(values, x.rank.minimum(y.rank))
    if (group := ties(values, counted, _tolerance(m))) is not None:
        vectors = vectors @ principal_turns(group, root.detach() @ vectors)
    if is_exact(m) or squares.requires_grad:
        vectors = turning(squares, values, vectors, noise=m["n"].detach()[..., None, None].rsqrt())
        # Lengths instead of roots of the eigenvalues, which would lose half the digits of small correlations.
        rho = at_most_one(torch.linalg.vector_norm(between.mT @ vectors, dim=-2))
        weights = (root @ vectors).abs().sum(-2)
    else:
        rho = values.clamp(0, 1).sqrt()
        with full_float32(root.device):
            weights = (root.float() @ vectors.float()).abs().sum(-2, dtype=torch.float64)
    weights = weights * counted
    return exact_where_same(m, (weights * rho).sum(-1) / weights.sum(-1), PWCCA.identical)


def _tolerance(m: Moments) -> float:
    """Return the difference up to which squared correlations are tied: rounding, with room."""
    return 1e-9 if is_exact(m) else 1e-7


def _best_directions(m: Moments) -> Directions:
    """Return the canonical directions of a half; tied ones are those along which x varies most."""
    maps = canonical_directions(m, *both_sides(m)[:3])
    rho = correlations(maps, m)
    counted = torch.arange(rho.shape[-1], device=rho.device) < maps.rank[..., None]
    if (group := ties(rho.square(), counted, _tolerance(m))) is None:
        return maps
    turns = principal_turns(group, centered(m)[0] @ maps.x)
    return replace(maps, x=maps.x @ turns, y=maps.y @ turns)


def _weighted_correlation(maps: Directions, m: Moments) -> Float[Tensor, "*pairs"]:
    """Return the mean correlation of directions on a half, weighted by how much of x each accounts for there."""
    columns = centered(m)[0] @ maps.x
    lengths = (maps.x * columns).sum(-2)
    varies = lengths > 0
    weights = torch.where(varies, columns.abs().sum(-2) / torch.where(varies, lengths, 1.0).sqrt(), 0.0)
    return (weights * correlations(maps, m)).sum(-1) / weights.sum(-1)


class PWCCA(FittedMeasure, WhitenedMeasure):
    """Projection-weighted CCA (Morcos et al. 2018): sum_i alpha_i rho_i.

    alpha_i is proportional to sum_j |<h_i, x_j>|, with h_i the orthonormal canonical variates of x (the first
    min(rank x, rank y) of them), x_j the centered columns of x, and sum alpha = 1, whatever the widths. The value is
    seen from x: swapping the sides changes it. The weights make it depend on the basis of x, but not on that of y.

    If canonical correlations are tied (some are exactly 1 when n <= p + q, or when the models share features), the
    definition leaves their variates open up to rotation, and with them the weights. Here they are those along which x
    varies most, so that neither rounding nor the basis of y decides, unless x varies equally along several of them.

    The accuracy is that of ``CCA``. The standard error treats variates as fixed if their correlations differ by less
    than their sampling error, 1 / sqrt(n). ``CCA`` says what ``crossfit`` does; weights are then those of the half that
    the directions are scored on.

    Args:
        crossfit: whether to score the directions on another half than they are fitted to.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = False
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset({"isotropic_scaling", "translation", "permutation"})
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {"pwcca": "PWCCA"}
    formula: ClassVar[str] = "sum alpha_i rho_i, alpha_i = sum_j |<h_i, x_j>| up to a factor, sum alpha = 1"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Morcos et al. 2018"

    def __init__(self, crossfit: bool = False) -> None:
        super().__init__(crossfit)
        self.bounds = (-1.0 if crossfit else 0.0, 1.0)
        self.minimum_samples = WHITENED_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``pwcca`` or ``pwcca_crossfit``."""
        return self.with_suffix("pwcca")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the weighted mean from sums."""
        return pwcca_from_moments(m, self.crossfit)

    def whitened(self, side: Moments) -> Whitening:
        """Return the whitening of a side."""
        product = centered_self(side)
        return whitening(product, side["xx"], side["eps_x"] / side["n"])
