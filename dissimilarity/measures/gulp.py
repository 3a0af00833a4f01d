"""How far the ridge predictors from two representations differ at most."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.moments.pair import Moments, centered, traces


def gulp(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], ridge: float = 1e-2) -> Float[Tensor, ""]:
    """Squared GULP distance of two representations of the same samples; see ``GULP``.

    Args:
        x, y: rows are samples; widths may differ.
        ridge: the penalty, against a total variance of 1.

    Returns:
        float64 scalar of at least 0; 0 = ridge regression predicts the same from both.
    """
    return GULP(ridge).of(x, y)


class GULP(WhitenedMeasure):
    """Squared GULP distance (Boix-Adsera et al. 2022) of centered representations of Frobenius norm sqrt(n).

    tr[(Sx + l)^-1 Sx (Sx + l)^-1 Sx] + the same of y - 2 tr[(Sx + l)^-1 Sxy (Sy + l)^-1 Syx] with covariances
    S = Xc'Xc / n, Sxy = Xc'Yc / n, l = ``ridge``: the mean squared difference of the ridge predictions of whatever
    target from x and from y, summed over orthonormal targets. Each side's part is at most 1 / (4 l). Its root is a
    metric. From float32 rows it is good to 1e-6 of the value, or of 1 where that is more.

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
    formula: ClassVar[str] = "|Kx (Kx + l)^-1 - Ky (Ky + l)^-1|_F^2, K = Xc Xc' / |Xc|_F^2"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Boix-Adsera et al. 2022"

    def __init__(self, ridge: float = 1e-2) -> None:
        super().__init__()
        if not ridge > 0:
            raise ValueError(f"expected ridge above 0, found {ridge}; without a ridge take cca, reduction mean_square")
        self.ridge = ridge
        self.bounds = (0.0, 0.5 / ridge)

    @property
    def label(self) -> str:
        """``gulp``, with the ridge where it is not 0.01."""
        return "gulp" if self.ridge == 1e-2 else f"gulp_{self.ridge:g}"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The squared distance from sums; see the class."""
        xx, yy, xy = centered(m)
        total_x, total_y = (traces(product)[..., None, None] for product in (xx, yy))
        x, y = self._factor(xx / total_x), self._factor(yy / total_y)
        between = _solve(y, _solve(x, xy).mT) / (total_x * total_y).sqrt()
        own_x, own_y = _solve(x, _solve(x, xx).mT) / total_x, _solve(y, _solve(y, yy).mT) / total_y
        return exact_where_same(m, _squares(own_x) + _squares(own_y) - 2 * _squares(between), self.identical)

    def _factor(self, covariance: Float[Tensor, "*pairs p p"]) -> Float[Tensor, "*pairs p p"]:
        """Cholesky factor with the ridge added."""
        ridge = self.ridge * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return torch.linalg.cholesky(covariance + ridge)


def _solve(lower: Tensor, product: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, product, upper=False)


def _squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    return product.square().sum((-2, -1))
