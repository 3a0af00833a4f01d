"""Canonical correlations of the leading principal components."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.fitted_measure import WHITENED_MINIMUM, FittedMeasure, fitted_moments_of
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.crossfit import Directions, canonical_directions, correlations, cross_fitted
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import Whitening, canonical, is_exact, leading, sum_of_correlations
from dissimilarity.moments.pair import Moments, centered, centered_self
from dissimilarity.probe.arguments import number


def svcca(
    x: ArrayLike, y: ArrayLike, variance: float = 0.99, crossfit: bool = False, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return singular vector CCA of two representations of the same samples; see ``SVCCA``.

    The mean canonical correlation of the leading principal components (Raghu et al. 2017). Symmetric; invariant to
    orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        variance: share of each side's variance that the components hold, above 0 and below 1.
        crossfit: whether to score components and directions on another half of the units than they are fitted to, both
            ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar in [0, 1], cross-fitted in [-1, 1]; 1 = same span of the leading components of the narrower
        side.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{svcca(x, x):.4f} {svcca(x, y):.4f} {svcca(x, y, variance=0.6):.4f}")
        1.0000 0.9257 0.8071
    """
    check_variance(variance)
    return svcca_from_moments(fitted_moments_of(x, y, crossfit, units), variance, crossfit)


def svcca_from_moments(m: Moments, variance: float, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return the mean correlation from sums."""
    if crossfit:
        value = cross_fitted(m, lambda half: _best_directions(half, variance), _mean_correlation)
    else:
        x, y, between = _of_components(m, variance)
        rank = x.rank.minimum(y.rank)
        value = sum_of_correlations(between, rank, is_exact(m)) / rank
    return exact_where_same(m, value, SVCCA.identical)


def _of_components(m: Moments, variance: float) -> tuple[Whitening, Whitening, Float[Tensor, "*pairs k l"]]:
    """Return the whitenings of the leading components of both sides, and their canonical matrix."""
    xx, yy, xy = centered(m)
    x, y = leading(xx, m["n"], variance), leading(yy, m["n"], variance)
    return x, y, canonical(x, y, xy)


def _best_directions(m: Moments, variance: float) -> Directions:
    """Return the canonical directions of the leading components of a half."""
    return canonical_directions(m, *_of_components(m, variance))


def _mean_correlation(maps: Directions, m: Moments) -> Float[Tensor, "*pairs"]:
    """Return the mean correlation of directions on a half."""
    return correlations(maps, m).sum(-1) / maps.rank


def check_variance(variance: float) -> None:
    """Raise ValueError unless the share of the variance is between 0 and 1."""
    number("variance", variance, below=1.0, hint="cca takes all components")


class SVCCA(FittedMeasure, WhitenedMeasure):
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Columns are centered. Each side contributes the fewest components whose squared singular values hold a share
    ``variance`` of the total, k_x and k_y of them. The value is sum rho_i / min(k_x, k_y). A few outlier dimensions can
    hold 99% of the variance of a language model's activations, and then k = 1.

    Numbers of components are whole, so the value jumps where the share crosses a component. Rounding there may cost
    2e-5 and more. The standard error holds these numbers fixed. Where they differ from one draw of text to the next,
    95% intervals cover about 83% in simulations (32 sequences). ``CCA`` says what ``crossfit`` does; components are
    then those of the half that the directions are fitted to.

    Args:
        variance: share of each side's variance that the components hold, above 0 and below 1.
        crossfit: whether to score components and directions on another half than they are fitted to.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {"svcca": "SVCCA"}
    formula: ClassVar[str] = "mean of rho over the fewest components that hold a share of the variance"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Raghu et al. 2017"

    def __init__(self, variance: float = 0.99, crossfit: bool = False) -> None:
        super().__init__(crossfit)
        check_variance(variance)
        self.variance = variance
        self.bounds = (-1.0 if crossfit else 0.0, 1.0)
        self.minimum_samples = WHITENED_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``svcca``, with the share if it is not 0.99, and with ``_crossfit`` if it is."""
        return self.with_suffix("svcca" if self.variance == 0.99 else f"svcca_{self.variance:g}")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the mean correlation from sums."""
        return svcca_from_moments(m, self.variance, self.crossfit)

    def whitened(self, side: Moments) -> Whitening:
        """Return the whitening of a side."""
        product = centered_self(side)
        return leading(product, side["n"], self.variance)
