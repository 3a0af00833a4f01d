"""Linear centered kernel alignment, exact over any number of samples."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.moments.pair import Moments, centered


def cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], debiased: bool = True) -> Float[Tensor, ""]:
    """Linear CKA of two representations of the same samples.

    Formula: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x', L = y y'; see ``CKA``.

    Args:
        x, y: rows are samples; widths may differ.
        debiased: unbiased HSIC, or the biased one.

    Returns:
        float64 scalar; 1 = same. Debiased: in [-1, 1], about 0 for independent data. Biased: in [0, 1], rises with
        p / n.
    """
    return CKA(debiased).of(x, y)


class CKA(MomentMeasure):
    """Linear CKA (Kornblith et al. 2019), by default with the unbiased HSIC_1 of Song et al. (2012).

    Biased: |Xc'Yc|_F^2 / (|Xc'Xc|_F |Yc'Yc|_F), Xc = column-centered X.

    Debiased: with K~ = K with zero diagonal, HSIC_1(K, L) = [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) -
    2 / (n-2) 1'K~L~1] / (n (n-3)). No Gram matrix is formed: tr(K~L~) = |X'Y|_F^2 - sum ab,
    1'K~1 = |sum x|^2 - sum a, 1'K~L~1 = s_x' X'Y s_y - s_x' X'b - s_y' Y'a + sum ab, all sums over samples.

    NaN where an unbiased self term is zero: centered rows of one side that are all alike or all at right angles.

    Args:
        debiased: unbiased HSIC, or the biased one.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 4
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X X', L = Y Y'"
    cost: ClassVar[str] = "n (p q + p^2 + q^2)"
    source: ClassVar[str] = "Kornblith et al. 2019; unbiased HSIC: Song et al. 2012"

    def __init__(self, debiased: bool = True) -> None:
        super().__init__()
        self.debiased = debiased
        self.bounds = (-1.0 if debiased else 0.0, 1.0)

    @property
    def label(self) -> str:
        """``cka`` or ``cka_biased``."""
        return "cka" if self.debiased else "cka_biased"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """CKA from sums; see the class."""
        if not self.debiased:
            xx, yy, xy = centered(m)
            return exact_where_same(m, _squares(xy) / (_squares(xx) * _squares(yy)).sqrt(), self.identical)
        sx, sy, n = m["x"], m["y"], m["n"]
        cross = _hsic(n, m["xy"], m["ab"], m["a"], m["b"], sx, sy, m["xb"], m["ya"])
        self_x = _hsic(n, m["xx"], m["aa"], m["a"], m["a"], sx, sx, m["xa"], m["xa"])
        self_y = _hsic(n, m["yy"], m["bb"], m["b"], m["b"], sy, sy, m["yb"], m["yb"])
        # HSIC_1 is an inner product of U-centered kernels: a self term of the size of rounding, or a cross term above
        # the self terms (Cauchy-Schwarz), means that there is nothing but rounding to compare.
        smallest = 1e-14 / (n * (n - 3))
        defined = (self_x > smallest * _squares(m["xx"])) & (self_y > smallest * _squares(m["yy"]))
        defined &= cross.square() <= (1 + 1e-5) * self_x * self_y
        value = cross / torch.where(defined, self_x * self_y, float("nan")).sqrt()
        return torch.where(defined, exact_where_same(m, value, self.identical), float("nan"))


def _squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    return torch.linalg.vecdot(product.flatten(-2), product.flatten(-2))


def _dot(u: Float[Tensor, "*pairs p"], v: Float[Tensor, "*pairs p"]) -> Float[Tensor, "*pairs"]:
    return (u * v).sum(-1)


def _hsic(n: Tensor, xy: Tensor, ab: Tensor, a: Tensor, b: Tensor, sx: Tensor, sy: Tensor, xb: Tensor, ya: Tensor):
    """HSIC_1 of two linear kernels from sums over samples; invariant to any common translation of either side."""
    trace = _squares(xy) - _of_degree(2, ab)
    total_k, total_l = _dot(sx, sx) - _of_degree(2, a), _dot(sy, sy) - _of_degree(2, b)
    chain = _dot(sx, (xy @ sy[..., None])[..., 0])
    inner = chain - _dot(sx, _of_degree(2, xb)) - _dot(sy, _of_degree(2, ya)) + _of_degree(3, ab)
    return (trace + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * inner) / (n * (n - 3))


def _of_degree(degree: int, diagonal: Tensor) -> Tensor:
    """A sum that takes diagonal terms out of a product of sums, for the jackknife's derivative.

    Where samples carry weights w_i, sum_i w_i x_i times itself holds w_i^2 a_i, so that is what must be taken out: the
    value is the sum's, the derivative ``degree`` times as large. Else a single massive row, which the value leaves out
    altogether, would rule the standard error.
    """
    return diagonal + (degree - 1) * (diagonal - diagonal.detach())
