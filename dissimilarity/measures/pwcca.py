"""Canonical correlations weighted by how much of x each accounts for."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import both_sides, counted, is_exact, turning
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.products import full_float32


def pwcca(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
    """Projection-weighted CCA of two representations of the same samples, seen from x; see ``PWCCA``.

    Args:
        x, y: rows are samples; widths may differ.

    Returns:
        float64 scalar in [0, 1]; 1 = one is an invertible linear map of the other.
    """
    return PWCCA().of(x, y)


class PWCCA(WhitenedMeasure):
    """Projection-weighted CCA (Morcos et al. 2018): sum_i alpha_i rho_i.

    alpha_i is proportional to sum_j |<h_i, x_j>|, with h_i the orthonormal canonical variates of x (the first
    min(rank x, rank y) of them), x_j the centered columns of x, and sum alpha = 1; whatever the widths. Seen from x:
    swapping the sides changes the value. Weights by neuron make it depend on the basis of x, but not on that of y.

    Where canonical correlations are tied (all that are exactly 1, of which there are some from n = p + q down), their
    variates are defined up to rotation only, and the weights with them: unless all are 1, nothing in the data decides.

    Accuracy as for ``CCA``. Its standard error takes variates whose correlations differ by less than their sampling
    error, 1 / sqrt(n), for settled.
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
        """The weighted mean from sums; see the class."""
        x, y, between, xx = both_sides(m)
        root, squares = x.root(xx), between @ between.mT
        values, vectors = torch.linalg.eigh(squares.detach())
        if is_exact(m) or squares.requires_grad:
            vectors = turning(squares, values, vectors, noise=m["n"].detach()[..., None, None].rsqrt())
            # Lengths rather than roots of the eigenvalues, which would lose half the digits of small correlations.
            rho = torch.linalg.vector_norm(between.mT @ vectors, dim=-2).clamp(max=1)
            weights = (root @ vectors).abs().sum(-2)
        else:
            rho = values.clamp(0, 1).sqrt()
            with full_float32(root.device):
                weights = (root.float() @ vectors.float()).abs().sum(-2, dtype=torch.float64)
        weights = weights * counted(values, x.rank.minimum(y.rank))
        return exact_where_same(m, (weights * rho).sum(-1) / weights.sum(-1), self.identical)
