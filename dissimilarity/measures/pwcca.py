"""Canonical correlations weighted by how much of x each accounts for."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import WhitenedMeasure, whitened_moments_of
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import Whitening, among_largest, both_sides, is_exact, turning, whitening
from dissimilarity.moments.pair import Moments, centered_self
from dissimilarity.moments.products import full_float32


def pwcca(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return projection-weighted CCA of two representations of the same samples, seen from x; see ``PWCCA``.

    sum alpha_i rho_i with weights alpha_i by how much of x each canonical variate accounts for (Morcos et al. 2018).
    Not symmetric; invariant to permutation, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).

    Returns:
        float64 scalar in [0, 1]; 1 = one is an invertible linear map of the other. Rises with p / n.

    Example:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0, 0.0], [1.5, 1.0], [3.0, 0.5], [0.5, 2.0], [0.0, 0.0]]
        >>> print(f"{pwcca(x, x):.4f} {pwcca(x, y):.4f} {pwcca(y, x):.4f}")
        1.0000 0.7043 0.6934
    """
    samples = paired_samples(x, y, PWCCA.minimum_samples)
    return pwcca_from_moments(whitened_moments_of(*samples, dual=False))


def pwcca_from_moments(m: Moments) -> Float[Tensor, "*pairs"]:
    """Return the weighted mean from sums."""
    x, y, between, xx = both_sides(m)
    root, squares = x.root(xx), between @ between.mT
    values, vectors = torch.linalg.eigh(squares.detach())
    if is_exact(m) or squares.requires_grad:
        vectors = turning(squares, values, vectors, noise=m["n"].detach()[..., None, None].rsqrt())
        # Lengths instead of roots of the eigenvalues, which would lose half the digits of small correlations.
        rho = torch.linalg.vector_norm(between.mT @ vectors, dim=-2).clamp(max=1)
        weights = (root @ vectors).abs().sum(-2)
    else:
        rho = values.clamp(0, 1).sqrt()
        with full_float32(root.device):
            weights = (root.float() @ vectors.float()).abs().sum(-2, dtype=torch.float64)
    weights = weights * among_largest(values, x.rank.minimum(y.rank))
    return exact_where_same(m, (weights * rho).sum(-1) / weights.sum(-1), PWCCA.identical)


class PWCCA(WhitenedMeasure):
    """Projection-weighted CCA (Morcos et al. 2018): sum_i alpha_i rho_i.

    alpha_i is proportional to sum_j |<h_i, x_j>|, with h_i the orthonormal canonical variates of x (the first
    min(rank x, rank y) of them), x_j the centered columns of x, and sum alpha = 1, whatever the widths. The value is
    seen from x: swapping the sides changes it. The weights make it depend on the basis of x, but not on that of y.

    If canonical correlations are tied (some are exactly 1 when n <= p + q), their variates are defined only up to
    rotation, and so are the weights. Unless all correlations are 1, the data do not determine the value then.

    The accuracy is that of ``CCA``. The standard error treats variates as fixed if their correlations differ by less
    than their sampling error, 1 / sqrt(n).
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = False
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset({"isotropic_scaling", "translation", "permutation"})
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "sum alpha_i rho_i, alpha_i = sum_j |<h_i, x_j>| up to a factor, sum alpha = 1"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Morcos et al. 2018"

    @property
    def label(self) -> str:
        """``pwcca``."""
        return "pwcca"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the weighted mean from sums."""
        return pwcca_from_moments(m)

    def whitened(self, side: Moments) -> Whitening:
        """Return the whitening of a side."""
        product = centered_self(side)
        return whitening(product, side["xx"], side["eps_x"] / side["n"])
