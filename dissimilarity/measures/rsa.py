"""Representational similarity analysis."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import stderr_of_left_out
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.distances import about_mean, condensed, dot, pair_distances, rearranged, row_sums
from dissimilarity.measures.numerics.ranks import Ranks, below, exact_ranks, quick_ranks, ranks_among
from dissimilarity.moments.products import sum_device

RDM = Literal["correlation", "sqeuclidean"]
Compare = Literal["spearman", "pearson"]


def rsa(
    x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], rdm: RDM = "correlation", compare: Compare = "spearman"
) -> Float[Tensor, ""]:
    """Correlation of the dissimilarities between the samples in two representations; see ``RSA``.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations, 8 n^2 bytes.
        rdm: dissimilarity of two rows: ``correlation`` (1 - Pearson's) or ``sqeuclidean``.
        compare: ``spearman`` or ``pearson`` over all pairs of rows.

    Returns:
        float64 scalar in [-1, 1]; 1 = same geometry up to what the correlations leave free.
    """
    return RSA(rdm, compare).of(x, y)


@dataclass(frozen=True)
class Geometry:
    """One side: dissimilarities of all pairs of n rows, or their ranks, about their mean, and the sum of squares."""

    n: int
    values: Float[Tensor, " pairs"]
    squares: Float[Tensor, ""]
    ranks: Ranks | None


class RSA(SampleMeasure):
    """Representational similarity analysis (Kriegeskorte et al. 2008): corr over pairs i < j of D_x(i, j), D_y(i, j).

    D(i, j) = 1 - Pearson correlation of rows i and j, or their squared Euclidean distance; Spearman's correlation, with
    average ranks for ties, or Pearson's. Dissimilarities that agree to 2e-14 (of more than 1,024 float32 rows: to 8e-6)
    are ties. Not defined where a row has no variance over its features (correlation), or where all dissimilarities are
    equal.

    Args:
        rdm: ``correlation`` or ``sqeuclidean``.
        compare: ``spearman`` or ``pearson``.
        samples: most rows that are compared.
        seed: which rows.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"isotropic_scaling", "permutation"})
    minimum_samples: int = 3
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "corr over pairs of rows of D_x and D_y, D = 1 - correlation of rows or squared distance"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Kriegeskorte et al. 2008"

    def __init__(
        self, rdm: RDM = "correlation", compare: Compare = "spearman", samples: int = 1024, seed: int = 0
    ) -> None:
        super().__init__(samples, seed)
        if rdm not in ("correlation", "sqeuclidean") or compare not in ("spearman", "pearson"):
            raise ValueError(
                "expected rdm correlation or sqeuclidean and compare spearman or pearson, "
                f"found {rdm!r} and {compare!r}"
            )
        self.rdm, self.compare = rdm, compare
        if rdm == "sqeuclidean":
            self.invariant_to = frozenset({"orthogonal", "isotropic_scaling", "translation", "permutation"})
        self.minimum_width = 3 if rdm == "correlation" else 1

    @property
    def label(self) -> str:
        """``rsa``, with ``_sqeuclidean`` and ``_pearson`` where they are not the defaults."""
        parts = ["rsa", *[part for part in (self.rdm, self.compare) if part in ("sqeuclidean", "pearson")]]
        return "_".join(parts)

    def prepare(self, x: Float[Tensor, "n p"]) -> Geometry:
        """Dissimilarities or their ranks."""
        rows, single = about_mean(standardized(x) if self.rdm == "correlation" else x), x.dtype == torch.float32
        pairs = pair_distances(rows, single)
        low, high = pairs.aminmax()
        if not bool(high - low > 1e-12 * high):
            raise ValueError("all samples are equally dissimilar, so there is no geometry to compare")
        if self.compare == "pearson":
            values = pairs - (pairs.sum(dtype=torch.float64) / len(pairs)).to(pairs.dtype)
            return Geometry(len(x), values, dot(values, values), None)
        ranks = quick_ranks(pairs) if pairs.dtype == torch.float32 else None
        ranks = ranks or exact_ranks(pairs if pairs.dtype == torch.float64 else pair_distances(rows, single=False))
        return Geometry(len(x), ranks.centered, dot(ranks.centered, ranks.centered), ranks)

    def between(self, x: Geometry, y: Geometry, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Correlation over the pairs."""
        cross, self_x, self_y = (_covariance(a, b, weight) for a, b in ((x, y), (x, x), (y, y)))
        return cross / (self_x * self_y).sqrt()

    def estimate(
        self, x: Geometry, y: Geometry, group: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value and its error by leaving out each group in turn: the pairs that are left are ranked anew."""
        groups = group.to(x.values.device).expand(x.n, x.n)
        first, second = condensed(groups.T, group.dtype), condensed(groups, group.dtype)
        values = []
        for out in range(int(group.max()) + 1):
            pairs = ((first != out) & (second != out)).nonzero()[:, 0]
            values.append(_correlation(*(_among(side, pairs) for side in (x, y))))
        return self.between(x, y), stderr_of_left_out(torch.stack(values))

    def rearrange(self, x: Geometry, order: Int[Tensor, " n"]) -> Geometry:
        """The pairs of the rearranged rows."""
        values = rearranged(x.values, order)
        return Geometry(x.n, values, x.squares, None if x.ranks is None else exact_order(values))


def standardized(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Float64 rows about their own means and of unit norm: half their squared distance is 1 - their correlation."""
    if x.shape[1] < 3:
        raise ValueError(
            f"the correlation of rows needs at least 3 features, found {x.shape[1]}; use rdm=sqeuclidean for such sites"
        )
    rows = x.detach().to(sum_device(x.device), torch.float64, copy=True)
    low, high = rows.aminmax(dim=1, keepdim=True)
    # By the largest entry first, lest the squares overflow or vanish.
    rows /= torch.maximum(-low, high).clamp_(min=torch.finfo(torch.float64).tiny)
    rows -= rows.mean(1, keepdim=True)
    norm = rows.norm(dim=1, keepdim=True)
    flat = int((norm <= 1e-14 * x.shape[1] ** 0.5).sum())
    if flat:
        raise ValueError(f"{flat} rows have no variance over their features, so that they correlate with nothing")
    return rows.div_(norm)


def exact_order(values: Float[Tensor, " pairs"]) -> Ranks:
    """Ranks of numbers that are average ranks already."""
    _, place = torch.unique(values, return_inverse=True)
    return Ranks(values, place)


def _among(side: Geometry, pairs: Int[Tensor, " some"]) -> Float[Tensor, " some"]:
    """The dissimilarities of some pairs, or their ranks, about their mean."""
    if side.ranks is not None:
        return ranks_among(side.ranks, pairs)
    values = side.values.index_select(0, pairs).double()
    return values - values.mean()


def _correlation(a: Float[Tensor, " some"], b: Float[Tensor, " some"]) -> Float[Tensor, ""]:
    return a @ b / ((a @ a) * (b @ b)).sqrt()


def _covariance(x: Geometry, y: Geometry, weight: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Sum of products over pairs; with weights, to first order about ones, where the ranks move with the weights."""
    value = x.squares if x is y else dot(x.values, y.values)
    if weight is None:
        return value
    slope = x.values.double() * y.values
    if x.ranks is not None and y.ranks is not None:
        slope += below(x.ranks, y.values) + below(y.ranks, x.values)
    return value + row_sums(slope, x.n) @ (weight - 1)
