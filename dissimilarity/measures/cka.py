"""Linear centered kernel alignment, exact over any number of samples."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import left_out, stderr_of_left_out
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.moments.pair import SWAPPED, Moments, centered_cross


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
        own_x = self._self_term({key: m[key] for key in ("n", *SWAPPED)})
        own_y = self._self_term({"n": m["n"], **{key: m[other] for key, other in SWAPPED.items()}})
        value = _cosine(self._cross_term(m), own_x, own_y)
        return torch.where(value.isnan(), value, exact_where_same(m, value, self.identical))

    def self_terms(self, totals: Moments, groups: Moments) -> Float[Tensor, " groups"]:
        """The term of a side with itself without each group in turn."""
        of_side = {key: totals[key] for key in ("n", "x", "xx", "a", "aa", "xa")}
        return left_out(self._self_term, of_side, groups)

    def estimate(
        self, totals: Moments, groups: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
        """CKA from sums, and its standard error by leaving out each group in turn."""
        return self.from_moments(totals), stderr_of_left_out(self.left_out(totals, groups, x, y))

    def left_out(
        self, totals: Moments, groups: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> Float[Tensor, "groups pairs"]:
        """CKA without each group in turn; the arguments are those of ``estimate``."""
        of_both = {key: totals[key] for key in ("n", "x", "y", "xy", "a", "b", "ab", "xb", "ya")}
        cross = left_out(self._cross_term, of_both, groups)
        return exact_where_same(totals, _cosine(cross, torch.stack([*x], 1), torch.stack([*y], 1)), self.identical)

    def _cross_term(self, m: Moments) -> Float[Tensor, "*pairs"]:
        if not self.debiased:
            return _squares(centered_cross(m))
        return _hsic(m["n"], m["xy"], m["ab"], m["a"], m["b"], m["x"], m["y"], m["xb"], m["ya"])

    def _self_term(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The term of a side, under first-side names, with itself; NaN where it is of the size of rounding."""
        n, xx, s, a = m["n"], m["xx"], m["x"], m["a"]
        if not self.debiased:
            return _squares(centered_cross({"n": n, "x": s, "y": s, "xy": xx}))
        term = _hsic(n, xx, m["aa"], a, a, s, s, m["xa"], m["xa"])
        return torch.where(term > 1e-14 / (n * (n - 3)) * _squares(xx), term, float("nan"))


def _cosine(
    cross: Float[Tensor, "*#pairs"], own_x: Float[Tensor, "*#pairs"], own_y: Float[Tensor, "*#pairs"]
) -> Float[Tensor, "*_"]:
    """The cosine of two kernels.

    It is one, for HSIC_1 is an inner product of U-centered kernels: a cross term above the self terms (Cauchy-Schwarz)
    means that there is nothing but rounding to compare.
    """
    squares = own_x * own_y
    return torch.where(cross.square() <= (1 + 1e-5) * squares, cross, float("nan")) / squares.sqrt()


def _squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    # vecdot takes five times as long over several matrices.
    return torch.linalg.vector_norm(product, dim=(-2, -1)).square()


def _dot(u: Float[Tensor, "*#pairs p"], v: Float[Tensor, "*#pairs p"]) -> Float[Tensor, "*_"]:
    return (u * v).sum(-1)


def _hsic(n: Tensor, xy: Tensor, ab: Tensor, a: Tensor, b: Tensor, sx: Tensor, sy: Tensor, xb: Tensor, ya: Tensor):
    """HSIC_1 of two linear kernels from sums over samples; invariant to any common translation of either side."""
    trace = _squares(xy) - ab
    total_k, total_l = _dot(sx, sx) - a, _dot(sy, sy) - b
    chain = _dot(sx, (xy @ sy[..., None])[..., 0])
    inner = chain - _dot(sx, xb) - _dot(sy, ya) + ab
    return (trace + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * inner) / (n * (n - 3))
