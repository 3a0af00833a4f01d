"""The angle whose cosine is linear CKA, and the distance between models that it gives."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import stderr_of_left_out
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.numerics.exact import angle, exact_where_same
from dissimilarity.moments.pair import Moments


def angular_cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], debiased: bool = True) -> Float[Tensor, ""]:
    """arccos of linear CKA of two representations of the same samples; see ``AngularCKA``.

    Args:
        x, y: rows are samples; widths may differ.
        debiased: unbiased HSIC, or the biased one.

    Returns:
        float64 scalar in radians; 0 = same. Debiased: in [0, pi], about pi / 2 for independent data. Biased: in
        [0, pi / 2].
    """
    return AngularCKA(debiased).of(x, y)


def product_distance(
    xs: Sequence[Float[Tensor, "n _"]], ys: Sequence[Float[Tensor, "n _"]], debiased: bool = True
) -> Float[Tensor, ""]:
    """Distance of two models of equal depth: sqrt(sum over layers of arccos(CKA)^2), a metric.

    Args:
        xs, ys: representations (n, width) of the same samples, layer by layer; widths may differ.
        debiased: unbiased HSIC, or the biased one.

    Returns:
        float64 scalar; 0 = every layer the same up to rotation, scale and translation.

    Raises:
        ValueError: no layers, or not as many on both sides.
    """
    if len(xs) != len(ys) or not len(xs):
        raise ValueError(
            f"expected as many layers of both models, at least one, found {len(xs)} and {len(ys)}; "
            "leave out the layers without a counterpart"
        )
    measure = AngularCKA(debiased)
    return torch.stack([measure.of(x, y) for x, y in zip(xs, ys, strict=True)]).square().sum().sqrt()


class AngularCKA(MomentMeasure):
    """arccos of linear CKA, a metric (Williams et al. 2021), by default of the debiased one.

    CKA is the cosine between two kernels, centered (biased) or U-centered (debiased), so its arccos is their angle.
    ``product_distance`` sums the squares over the layers of two models.

    NaN where ``CKA`` is. An angle t has the rounding of CKA times 1 / t: from float32 rows up to 1e-3 near zero (none
    between equal inputs), from float64 rows angles below 2e-6 are taken for zero.

    Args:
        debiased: unbiased HSIC, or the biased one.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, torch.pi)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = True
    invariant_to: ClassVar[frozenset[str]] = CKA.invariant_to
    minimum_samples: int = CKA.minimum_samples
    identical: ClassVar[float] = 0.0
    formula: ClassVar[str] = "arccos(HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))), K = X X', L = Y Y'"
    cost: ClassVar[str] = CKA.cost
    source: ClassVar[str] = "Williams et al. 2021; sum over layers: Brown et al. 2023"

    def __init__(self, debiased: bool = True) -> None:
        super().__init__()
        self.debiased = debiased
        self.bounds = (0.0, torch.pi if debiased else torch.pi / 2)
        self._cosine = CKA(debiased)

    @property
    def label(self) -> str:
        """``angular_cka`` or ``angular_cka_biased``."""
        return "angular_cka" if self.debiased else "angular_cka_biased"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The angle from sums; see the class."""
        cosine = self._cosine.from_moments(m)
        value = angle(cosine)
        return torch.where(cosine.isnan(), value, exact_where_same(m, value, self.identical))

    def self_terms(self, totals: Moments, groups: Moments) -> Float[Tensor, " groups"]:
        """Those of ``CKA``."""
        return self._cosine.self_terms(totals, groups)

    def estimate(
        self, totals: Moments, groups: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
        """The angle from sums, and its standard error by leaving out each group in turn."""
        return self.from_moments(totals), stderr_of_left_out(angle(self._cosine.left_out(totals, groups, x, y)))
