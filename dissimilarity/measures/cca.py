"""Canonical correlations, exact over any number of samples."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import both_sides, is_exact, sum_of_correlations
from dissimilarity.moments.pair import Moments

Reduction = Literal["mean", "mean_square", "r2"]


def cca(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Canonical correlation of two representations of the same samples; see ``CCA``.

    Args:
        x, y: rows are samples; widths may differ.
        reduction: ``mean``, ``mean_square`` or ``r2``.

    Returns:
        float64 scalar in [0, 1]; 1 = one is an invertible linear map of the other (``r2``: x one of y).
    """
    return CCA(reduction).of(x, y)


class CCA(WhitenedMeasure):
    """Canonical correlations rho_i = singular values of Qx'Qy, Q = orthonormal basis of the centered columns.

    ``mean`` and ``mean_square`` (Raghu et al. 2017, Kornblith et al. 2019): sum rho_i / r and sum rho_i^2 / r with r
    the smaller of the two ranks. ``r2``: sum rho_i^2 / rank(x), the share of the whitened x that y predicts; where x
    has full rank that is the literature's sum rho_i^2 / p. Ranks are those of the centered columns, so that dead
    neurons, duplicates and n <= p count for what they are.

    All rise with p / n, and from n = max(p, q) + 1 down every rho is 1: take many more samples than dimensions, and
    read the value beside its null.

    Good to 1e-10 from float64 rows and 1e-6 from float32 rows where the correlation matrix of a side has no eigenvalue
    below 1e-2; the error from float32 rows grows as the inverse of the smallest one, and directions below
    1e-6 sqrt(p) count as missing.

    Args:
        reduction: ``mean``, ``mean_square`` or ``r2``.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: bool = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation", "invertible_linear"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "mean of rho or rho^2, or sum rho^2 / rank X; rho = singular values of Qx'Qy"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Hotelling 1936; Raghu et al. 2017"

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "mean_square", "r2"):
            raise ValueError(f"expected reduction mean, mean_square or r2, found {reduction!r}")
        self.reduction = reduction
        self.is_symmetric = reduction != "r2"

    @property
    def label(self) -> str:
        """``cca``, ``cca_mean_square`` or ``cca_r2``."""
        return "cca" if self.reduction == "mean" else f"cca_{self.reduction}"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The mean from sums; see the class."""
        x, y, between, _ = both_sides(m)
        rank = x.rank.minimum(y.rank)
        if self.reduction == "mean":
            value = sum_of_correlations(between, rank, is_exact(m)) / rank
        else:
            over = x.rank if self.reduction == "r2" else rank
            value = (between.square().sum((-2, -1)) / over).clamp(max=1)
        return exact_where_same(m, value, self.identical)
