"""How much of y a linear map of x predicts."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import WhitenedMeasure, whitened_moments_of
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import whitening
from dissimilarity.moments.pair import Moments, centered, traces


def linear_regression(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return R^2 of the least-squares prediction of y from x; see ``LinearRegression``.

    |Qx'Yc|_F^2 / |Yc|_F^2 (Kornblith et al. 2019). Not symmetric; invariant to orthogonal maps, isotropic scaling and
    translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).

    Returns:
        float64 scalar in [0, 1]; 1 = y is an affine map of x. Rises with p / n.

    Example:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{linear_regression(x, y):.4f} {linear_regression(y, x):.4f}")
        0.8569 0.5563
    """
    return linear_regression_from_moments(whitened_moments_of(*paired_samples(x, y, LinearRegression.minimum_samples)))


def linear_regression_from_moments(m: Moments) -> Float[Tensor, "*pairs"]:
    """Return R^2 from sums."""
    xx, yy, xy = centered(m)
    predicted = whitening(xx, m["xx"], m["eps_x"] / m["n"])(xy)
    value = (predicted.square().sum((-2, -1)) / traces(yy)).clamp(max=1)
    return exact_where_same(m, value, LinearRegression.identical)


class LinearRegression(WhitenedMeasure):
    """R^2 of predicting y from x with an intercept, columns weighted by their variance.

    |Qx'Yc|_F^2 / |Yc|_F^2 with Qx an orthonormal basis of the centered columns of x: 1 - (residual sum of squares) /
    (total sum of squares) over all columns of y together. It is measured on the samples that the map was fitted to, so
    it rises with p / n and is 1 if n <= p + 1.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = False
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "|Qx'Yc|_F^2 / |Yc|_F^2"
    cost: ClassVar[str] = "n (p q + p^2), p^3 + p^2 q"
    source: ClassVar[str] = "Kornblith et al. 2019"

    @property
    def label(self) -> str:
        """``linear_regression``."""
        return "linear_regression"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return R^2 from sums."""
        return linear_regression_from_moments(m)
