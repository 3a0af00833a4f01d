"""How much of y a linear map of x predicts."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.fitted_measure import WHITENED_MINIMUM, FittedMeasure, fitted_moments_of
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.crossfit import check_ranks, cross_fitted, directions
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import at_most_one, whitening
from dissimilarity.moments.pair import Moments, centered, centered_self, traces


def linear_regression(
    x: ArrayLike, y: ArrayLike, crossfit: bool = False, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return R^2 of the least-squares prediction of y from x; see ``LinearRegression``.

    |Qx'Yc|_F^2 / |Yc|_F^2 (Kornblith et al. 2019). Not symmetric; invariant to orthogonal maps, isotropic scaling and
    translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        crossfit: whether to score the prediction on another half of the units than it is fitted to, both ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar in [0, 1], cross-fitted at most 1; 1 = y is an affine map of x. Rises with p / n, cross-fitted it
        falls.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{linear_regression(x, y):.4f} {linear_regression(y, x):.4f}")
        0.8569 0.5563
    """
    return linear_regression_from_moments(fitted_moments_of(x, y, crossfit, units), crossfit)


def linear_regression_from_moments(m: Moments, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return R^2 from sums."""
    if crossfit:
        return exact_where_same(m, cross_fitted(m, _coefficients, _share_predicted), LinearRegression.identical)
    xx, yy, xy = centered(m)
    predicted = whitening(xx, m["xx"], m["eps_x"] / m["n"])(xy)
    value = at_most_one(predicted.square().sum((-2, -1)) / traces(yy))
    return exact_where_same(m, value, LinearRegression.identical)


def _coefficients(m: Moments) -> Float[Tensor, "*pairs p q"]:
    """Return the least-squares coefficients of y on x."""
    xx, _, xy = centered(m)
    white = whitening(xx, m["xx"], m["eps_x"] / m["n"])
    check_ranks(m, white.rank, torch.ones_like(white.rank))
    return directions(white, white(xy))


def _share_predicted(coefficients: Float[Tensor, "*pairs p q"], m: Moments) -> Float[Tensor, "*pairs"]:
    """Return 1 - (residual sum of squares) / (total sum of squares) of a half, each about its own mean."""
    xx, yy, xy = centered(m)
    explained = (coefficients * (2 * xy - xx @ coefficients)).sum((-2, -1))
    return explained / traces(yy)


class LinearRegression(FittedMeasure, WhitenedMeasure):
    """R^2 of predicting y from x with an intercept, columns weighted by their variance.

    |Qx'Yc|_F^2 / |Yc|_F^2 with Qx an orthonormal basis of the centered columns of x: 1 - (residual sum of squares) /
    (total sum of squares) over all columns of y together. It is measured on the samples that the map was fitted to, so
    it rises with p / n and is 1 if n <= p + 1. With ``crossfit`` the map is fitted to one half of the units and scored
    on the other, the mean over both ways. That is too small rather than too large, and below 0 where predicting the
    mean would be better. Each half needs 2 samples more than x has dimensions.

    The accuracy is that of ``CCA``, by the eigenvalues of the correlation matrix of x.

    Args:
        crossfit: whether to score the prediction on another half than it is fitted to.
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
    titles: ClassVar[Mapping[str, str]] = {"linear_regression": "regression R²"}
    formula: ClassVar[str] = "|Qx'Yc|_F^2 / |Yc|_F^2"
    cost: ClassVar[str] = "n (p q + p^2), p^3 + p^2 q"
    source: ClassVar[str] = "Kornblith et al. 2019"

    def __init__(self, crossfit: bool = False) -> None:
        super().__init__(crossfit)
        self.bounds = (-math.inf if crossfit else 0.0, 1.0)
        self.minimum_samples = WHITENED_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``linear_regression`` or ``linear_regression_crossfit``."""
        return self.with_suffix("linear_regression")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return R^2 from sums."""
        return linear_regression_from_moments(m, self.crossfit)

    def rank(self, side: Moments) -> int:
        """Return the rank of a side."""
        side = {key: value[None] for key, value in side.items()}
        return int(whitening(centered_self(side), side["xx"], side["eps_x"] / side["n"]).rank)

    def forced(self, x_rank: int, y_rank: int, n: int) -> int:
        """Return in how many directions x predicts whatever y is: centered samples have n - 1 dimensions."""
        return min(x_rank, y_rank) if x_rank >= n - 1 else 0
