"""Linear centered kernel alignment, exact over any number of samples."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import left_out, stderr_of_left_out
from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.moments.pair import SWAPPED, Moments, centered_cross, moments_of


def cka(x: ArrayLike, y: ArrayLike, debiased: bool = True) -> Float[Tensor, ""]:
    """Return linear CKA of two representations of the same samples; see ``CKA``.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = x x', L = y y' (Kornblith et al. 2019). Symmetric; invariant to
    orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 4 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        debiased: whether to use the unbiased HSIC instead of the biased one.

    Returns:
        float64 scalar; 1 = same. Debiased: in [-1, 1], about 0 for independent data. Biased: in [0, 1], rises with
        p / n.

    Example:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{cka(x, x):.4f} {cka(x, y):.4f}")
        1.0000 0.6648
    """
    return cka_from_moments(moments_of(*paired_samples(x, y, CKA.minimum_samples)), debiased)


def cka_from_moments(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    """Return CKA from sums; NaN where an unbiased self term is zero."""
    self_x = _self_term({key: m[key] for key in ("n", *SWAPPED)}, debiased)
    self_y = _self_term({"n": m["n"], **{key: m[other] for key, other in SWAPPED.items()}}, debiased)
    value = _cosine(_cross_term(m, debiased), self_x, self_y)
    return torch.where(value.isnan(), value, exact_where_same(m, value, CKA.identical))


class CKA(MomentMeasure):
    """Linear CKA (Kornblith et al. 2019), by default with the unbiased HSIC_1 of Song et al. (2012).

    Biased: |Xc'Yc|_F^2 / (|Xc'Xc|_F |Yc'Yc|_F) with Xc = column-centered X.

    Debiased: with K~ = K with zero diagonal, HSIC_1(K, L) = [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) -
    2 / (n-2) 1'K~L~1] / (n (n-3)). No Gram matrix is formed: tr(K~L~) = |X'Y|_F^2 - sum ab,
    1'K~1 = |sum x|^2 - sum a, 1'K~L~1 = s_x' X'Y s_y - s_x' X'b - s_y' Y'a + sum ab, all sums over samples.

    The value is NaN where an unbiased self term is zero: the centered samples of one side are all alike or all
    orthogonal to each other.

    Args:
        debiased: whether to use the unbiased HSIC instead of the biased one.
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
        """Return CKA from sums."""
        return cka_from_moments(m, self.debiased)

    def self_terms(self, totals: Moments, units: Moments) -> Float[Tensor, " units"]:
        """Return the term of a side with itself without each unit in turn."""
        side = {key: totals[key] for key in ("n", "x", "xx", "a", "aa", "xa")}
        return left_out(lambda m: _self_term(m, self.debiased), side, units)

    def estimate(
        self, totals: Moments, units: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
        """Return CKA from sums, and its standard error from leaving out each unit in turn."""
        return self.from_moments(totals), stderr_of_left_out(self.left_out(totals, units, x, y))

    def left_out(
        self, totals: Moments, units: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> Float[Tensor, "units pairs"]:
        """Return CKA without each unit in turn; the arguments are those of ``estimate``."""
        both = {key: totals[key] for key in ("n", "x", "y", "xy", "a", "b", "ab", "xb", "ya")}
        cross = left_out(lambda m: _cross_term(m, self.debiased), both, units)
        return exact_where_same(totals, _cosine(cross, torch.stack([*x], 1), torch.stack([*y], 1)), self.identical)


def _cross_term(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    if not debiased:
        return _squares(centered_cross(m))
    return _hsic(m["n"], m["xy"], m["ab"], m["a"], m["b"], m["x"], m["y"], m["xb"], m["ya"])


def _self_term(m: Moments, debiased: bool) -> Float[Tensor, "*pairs"]:
    """Return the term of a side, under first-side names, with itself; NaN where it is no larger than rounding."""
    n, xx, s, a = m["n"], m["xx"], m["x"], m["a"]
    if not debiased:
        return _squares(centered_cross({"n": n, "x": s, "y": s, "xy": xx}))
    term = _hsic(n, xx, m["aa"], a, a, s, s, m["xa"], m["xa"])
    return torch.where(term > 1e-14 / (n * (n - 3)) * _squares(xx), term, float("nan"))


def _cosine(
    cross: Float[Tensor, "*#pairs"], self_x: Float[Tensor, "*#pairs"], self_y: Float[Tensor, "*#pairs"]
) -> Float[Tensor, "*_"]:
    """Return the cosine of two kernels; NaN where only rounding is left to compare.

    HSIC_1 is an inner product of U-centered kernels, so a cross term above the self terms contradicts Cauchy-Schwarz
    and can only be rounding.
    """
    squares = self_x * self_y
    return torch.where(cross.square() <= (1 + 1e-5) * squares, cross, float("nan")) / squares.sqrt()


def _squares(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    # vecdot takes five times as long over several matrices.
    return torch.linalg.vector_norm(product, dim=(-2, -1)).square()


def _dot(u: Float[Tensor, "*#pairs p"], v: Float[Tensor, "*#pairs p"]) -> Float[Tensor, "*_"]:
    return (u * v).sum(-1)


def _hsic(n: Tensor, xy: Tensor, ab: Tensor, a: Tensor, b: Tensor, sx: Tensor, sy: Tensor, xb: Tensor, ya: Tensor):
    """Return HSIC_1 of two linear kernels from sums over samples. It is invariant to translation of either side."""
    trace = _squares(xy) - ab
    total_k, total_l = _dot(sx, sx) - a, _dot(sy, sy) - b
    chain = _dot(sx, (xy @ sy[..., None])[..., 0])
    inner = chain - _dot(sx, xb) - _dot(sy, ya) + ab
    return (trace + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * inner) / (n * (n - 3))
