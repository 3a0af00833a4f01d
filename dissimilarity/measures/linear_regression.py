"""How much of y a linear map of x predicts."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import whitening
from dissimilarity.moments.pair import Moments, centered, traces


def linear_regression(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
    """R^2 of the least-squares prediction of y from x; see ``LinearRegression``.

    Args:
        x, y: rows are samples; widths may differ.

    Returns:
        float64 scalar in [0, 1]; 1 = y is an affine map of x.
    """
    return LinearRegression().of(x, y)


class LinearRegression(WhitenedMeasure):
    """R^2 of predicting y from x with an intercept, columns weighted by their variance.

    |Qx'Yc|_F^2 / |Yc|_F^2 with Qx an orthonormal basis of the centered columns of x: 1 - (residual sum of squares) /
    (total sum of squares) over all columns of y together. On the samples it was fitted to, so it rises with p / n and
    is 1 from n = p + 1 down.
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
        """R^2 from sums; see the class."""
        xx, yy, xy = centered(m)
        predicted = whitening(xx, m["xx"], m["eps_x"] / m["n"])(xy)
        value = (predicted.square().sum((-2, -1)) / traces(yy)).clamp(max=1)
        return exact_where_same(m, value, self.identical)
