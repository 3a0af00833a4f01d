"""Canonical correlations, exact over any number of samples."""

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.fitted_measure import WHITENED_MINIMUM, FittedMeasure, fitted_moments_of
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.crossfit import Directions, canonical_directions, correlations, cross_fitted
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import (
    Whitening,
    at_most_one,
    both_sides,
    is_exact,
    sum_of_correlations,
    whitening,
)
from dissimilarity.moments.pair import Moments, centered_self
from dissimilarity.probe.arguments import choice

Reduction = Literal["mean", "mean_square", "r2"]


def cca(
    x: ArrayLike,
    y: ArrayLike,
    reduction: Reduction = "mean",
    crossfit: bool = False,
    units: ArrayLike | None = None,
) -> Float[Tensor, ""]:
    """Return the canonical correlation of two representations of the same samples; see ``CCA``.

    The mean of rho or rho^2, with rho the singular values of Qx'Qy (Hotelling 1936; Raghu et al. 2017). Invariant to
    invertible linear maps and translation of either side; symmetric except for ``r2``.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        reduction: ``mean``, ``mean_square`` or ``r2``.
        crossfit: whether to score canonical directions on another half of the units than they are fitted to, both ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar in [0, 1], cross-fitted in [-1, 1]; 1 = one is an invertible linear map of the other (``r2``: x
        is one of y). Rises with p / n, cross-fitted it falls.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{cca(x, x):.4f} {cca(x, y):.4f}")
        1.0000 0.9257
    """
    choice("reduction", reduction, get_args(Reduction))
    return cca_from_moments(fitted_moments_of(x, y, crossfit, units), reduction, crossfit)


def cca_from_moments(m: Moments, reduction: Reduction, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return the mean correlation from sums."""
    if crossfit:
        value = cross_fitted(m, _best_directions, lambda maps, half: _mean_correlation(maps, half, reduction))
        return exact_where_same(m, value, CCA.identical)
    x, y, between, _ = both_sides(m)
    rank = x.rank.minimum(y.rank)
    if reduction == "mean":
        value = sum_of_correlations(between, rank, is_exact(m)) / rank
    else:
        divisor = x.rank if reduction == "r2" else rank
        value = at_most_one(between.square().sum((-2, -1)) / divisor)
    return exact_where_same(m, value, CCA.identical)


def _best_directions(m: Moments) -> Directions:
    """Return the canonical directions of a half."""
    return canonical_directions(m, *both_sides(m)[:3])


def _mean_correlation(maps: Directions, m: Moments, reduction: Reduction) -> Float[Tensor, "*pairs"]:
    """Return the mean correlation of directions on a half; squares keep the sign, so that no chance is counted."""
    rho = correlations(maps, m)
    signed = rho if reduction == "mean" else rho * rho.abs()
    return signed.sum(-1) / (maps.rank_x if reduction == "r2" else maps.rank)


class CCA(FittedMeasure, WhitenedMeasure):
    """Canonical correlations rho_i = singular values of Qx'Qy, Q = orthonormal basis of the centered columns.

    ``mean`` and ``mean_square`` (Raghu et al. 2017, Kornblith et al. 2019): sum rho_i / r and sum rho_i^2 / r with r
    the smaller of the two ranks. ``r2``: sum rho_i^2 / rank(x), the share of the whitened x that y predicts. If x has
    full rank, that is the literature's sum rho_i^2 / p. Ranks are those of the centered columns, so dead neurons,
    duplicates and n <= p are accounted for.

    All three rise with p / n, and with n <= max(p, q) + 1 every rho is 1. Use many more samples than dimensions, and
    compare the value with its null. With ``crossfit``, directions are fitted to one half of the units and rho is the
    correlation along them in the other half, the mean over both ways. It may be negative (a square keeps the sign) and
    is too small rather than too large. Each half needs more samples than both sides together have dimensions.

    If the correlation matrix of neither side has an eigenvalue below 1e-2, the value is accurate to 1e-10 from float64
    samples. From float32 samples the error is about 2e-7, divided by the smallest eigenvalue. If that is below 1e-3,
    features are nearly collinear, and the samples are multiplied in float64, in ``update`` those of a batch. Models
    that ``compare`` runs with ``n_units`` or cross-fitted measures cannot be read again: a note says so, and directions
    below 1e-6 sqrt(p) count as missing there.

    Args:
        reduction: ``mean``, ``mean_square`` or ``r2``.
        crossfit: whether to score the directions on another half than they are fitted to.
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
    titles: ClassVar[Mapping[str, str]] = {
        "cca": "mean CCA correlation",
        "cca_mean_square": "mean squared CCA correlation",
        "cca_r2": "CCA R²",
    }
    formula: ClassVar[str] = "mean of rho or rho^2, or sum rho^2 / rank X; rho = singular values of Qx'Qy"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Hotelling 1936; Raghu et al. 2017"

    def __init__(self, reduction: Reduction = "mean", crossfit: bool = False) -> None:
        super().__init__(crossfit)
        choice("reduction", reduction, get_args(Reduction))
        self.reduction: Reduction = reduction
        self.is_symmetric = reduction != "r2"
        self.bounds = (-1.0 if crossfit else 0.0, 1.0)
        self.minimum_samples = WHITENED_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``cca``, ``cca_mean_square`` or ``cca_r2``, with ``_crossfit`` if it is."""
        return self.with_suffix("cca" if self.reduction == "mean" else f"cca_{self.reduction}")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the mean correlation from sums."""
        return cca_from_moments(m, self.reduction, self.crossfit)

    def whitened(self, side: Moments) -> Whitening:
        """Return the whitening of a side."""
        product = centered_self(side)
        return whitening(product, side["xx"], side["eps_x"] / side["n"])
