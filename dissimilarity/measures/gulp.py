"""How far the predictions of ridge regressions from two representations differ."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import WhitenedMeasure, whitened_moments_of
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.moments.pair import Moments, centered, traces
from dissimilarity.probe.arguments import number


def gulp(x: ArrayLike, y: ArrayLike, ridge: float = 1e-2) -> Float[Tensor, ""]:
    """Return the squared GULP distance of two representations of the same samples; see ``GULP``.

    |Kx (Kx + l)^-1 - Ky (Ky + l)^-1|_F^2 with K = Xc Xc' / |Xc|_F^2 (Boix-Adsera et al. 2022). Symmetric; invariant to
    orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        ridge: the penalty l, above 0, relative to a total variance of 1.

    Returns:
        float64 scalar in [0, 1 / (2 l)]; 0 = ridge regression predicts the same from both.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{gulp(x, x):.4f} {gulp(x, y):.4f}")
        0.0000 1.2054
    """
    check_ridge(ridge)
    return gulp_from_moments(whitened_moments_of(*paired_samples(x, y, GULP.minimum_samples)), ridge)


def gulp_from_moments(m: Moments, ridge: float) -> Float[Tensor, "*pairs"]:
    """Return the squared distance from sums."""
    xx, yy, xy = centered(m)
    total_x, total_y = (traces(product)[..., None, None] for product in (xx, yy))
    x, y = _factor(xx / total_x, ridge), _factor(yy / total_y, ridge)
    between = _solve(y, _solve(x, xy).mT) / (total_x * total_y).sqrt()
    self_x, self_y = _solve(x, _solve(x, xx).mT) / total_x, _solve(y, _solve(y, yy).mT) / total_y
    return exact_where_same(m, _squares(self_x) + _squares(self_y) - 2 * _squares(between), GULP.identical)


def check_ridge(ridge: float) -> None:
    """Raise ValueError unless the ridge is positive."""
    number("ridge", ridge, hint="without a ridge use cca, reduction mean_square")


class GULP(WhitenedMeasure):
    """Squared GULP distance (Boix-Adsera et al. 2022) of centered representations with Frobenius norm sqrt(n).

    tr[(Sx + l)^-1 Sx (Sx + l)^-1 Sx] + the same for y - 2 tr[(Sx + l)^-1 Sxy (Sy + l)^-1 Syx] with covariances
    S = Xc'Xc / n, Sxy = Xc'Yc / n, l = ``ridge``. This is the mean squared difference of the ridge predictions of a
    target from x and from y, summed over orthonormal targets. Each side's part is at most 1 / (4 l). The root of the
    value is a metric. From float32 samples it is accurate to 1e-6 of the value, or of 1 if that is more.

    Args:
        ridge: the penalty l, above 0; the total variance of a side is 1.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 50.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {"gulp": "squared GULP distance"}
    formula: ClassVar[str] = "|Kx (Kx + l)^-1 - Ky (Ky + l)^-1|_F^2, K = Xc Xc' / |Xc|_F^2"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Boix-Adsera et al. 2022"

    def __init__(self, ridge: float = 1e-2) -> None:
        super().__init__()
        check_ridge(ridge)
        self.ridge = ridge
        self.bounds = (0.0, 0.5 / ridge)

    @property
    def label(self) -> str:
        """``gulp``, with the ridge if it is not 0.01."""
        return "gulp" if self.ridge == 1e-2 else f"gulp_{self.ridge:g}"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the squared distance from sums."""
        return gulp_from_moments(m, self.ridge)


def _factor(covariance: Float[Tensor, "*pairs p p"], ridge: float) -> Float[Tensor, "*pairs p p"]:
    """Return the Cholesky factor with the ridge added."""
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + ridge * eye)


def _solve(lower: Tensor, product: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, product, upper=False)


def _squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    return product.square().sum((-2, -1))
