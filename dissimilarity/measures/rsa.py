"""Representational similarity analysis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_left_out
from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.distances import (
    about_mean,
    condensed,
    dot,
    pair_distances,
    rearranged_pairs,
    row_sums,
)
from dissimilarity.measures.numerics.ranks import Ranks, below, exact_ranks, quick_ranks
from dissimilarity.moments.products import sum_device
from dissimilarity.probe.arguments import choice

RDM = Literal["correlation", "sqeuclidean"]
Compare = Literal["spearman", "pearson"]


def rsa(x: ArrayLike, y: ArrayLike, rdm: RDM = "correlation", compare: Compare = "spearman") -> Float[Tensor, ""]:
    """Return the correlation of the dissimilarities between the samples in two representations; see ``RSA``.

    corr over pairs of samples of D_x and D_y (Kriegeskorte et al. 2008). Symmetric; invariant to permutation and
    isotropic scaling of either side, with ``sqeuclidean`` also to orthogonal maps and translation.

    Args:
        x: at least 3 samples, (n, p): a tensor, numpy array or nested list. All samples are compared: n^2 (p + q)
            operations, 8 n^2 bytes.
        y: the same samples in the other representation, (n, q).
        rdm: dissimilarity of two samples: ``correlation`` (1 - Pearson's, needs at least 3 features) or
            ``sqeuclidean``.
        compare: ``spearman`` or ``pearson`` correlation over all pairs of samples.

    Returns:
        float64 scalar in [-1, 1]; 1 = same geometry, up to what the correlations ignore.

    Examples:
        >>> x = [[0.0, 1.0, 3.0], [1.0, 0.5, 0.0], [2.0, 2.0, 1.0], [3.0, -1.0, 0.0]]
        >>> y = [[2.0, 0.0, 1.0], [1.5, 1.0, 0.0], [3.0, 0.5, 2.0], [0.5, 2.0, 3.0]]
        >>> print(f"{rsa(x, x):.4f} {rsa(x, y):.4f} {rsa(x, y, rdm='sqeuclidean'):.4f}")
        1.0000 -0.5429 0.1160
    """
    check_options(rdm, compare)
    x, y = paired_samples(x, y, RSA.minimum_samples)
    return correlation(geometry(x, rdm, compare), geometry(y, rdm, compare))


@dataclass(frozen=True)
class Geometry:
    """The dissimilarities of all pairs of samples of one side.

    Attributes:
        n: number of samples.
        values: the dissimilarities or their ranks, about their mean.
        squares: the sum of their squares.
        ranks: the ranks; None for Pearson's correlation.
    """

    n: int
    values: Float[Tensor, " pairs"]
    squares: Float[Tensor, ""]
    ranks: Ranks | None


def geometry(x: Float[Tensor, "n p"], rdm: RDM, compare: Compare) -> Geometry:
    """Return the dissimilarities of all pairs of samples, or their ranks."""
    samples, single = about_mean(standardized(x) if rdm == "correlation" else x), x.dtype == torch.float32
    pairs = pair_distances(samples, single)
    low, high = pairs.aminmax()
    if not bool(high - low > 1e-12 * high):
        raise ValueError("all samples are equally dissimilar, so there is no geometry to compare")
    if compare == "pearson":
        values = pairs - (pairs.sum(dtype=torch.float64) / len(pairs)).to(pairs.dtype)
        return Geometry(len(x), values, dot(values, values), None)
    ranks = quick_ranks(pairs) if pairs.dtype == torch.float32 else None
    ranks = ranks or exact_ranks(pairs if pairs.dtype == torch.float64 else pair_distances(samples, single=False))
    return Geometry(len(x), ranks.centered, dot(ranks.centered, ranks.centered), ranks)


def correlation(x: Geometry, y: Geometry, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """Return the correlation over the pairs, differentiable in the samples' weights if they are given."""
    cross, self_x, self_y = (_covariance(a, b, weight) for a, b in ((x, y), (x, x), (y, y)))
    return cross / (self_x * self_y).sqrt()


def check_options(rdm: str, compare: str) -> None:
    """Raise ValueError for an unknown dissimilarity or correlation."""
    choice("rdm", rdm, get_args(RDM))
    choice("compare", compare, get_args(Compare))


class RSA(SampleMeasure):
    """Representational similarity analysis (Kriegeskorte et al. 2008): corr over pairs i < j of D_x(i, j), D_y(i, j).

    D(i, j) is 1 - Pearson's correlation of samples i and j, or their squared Euclidean distance. The correlation over
    pairs is Spearman's, with average ranks for ties, or Pearson's. Dissimilarities that agree to 2e-14 are ties (to
    8e-6 with more than 1,024 float32 samples). The value is not defined if a sample has no variance over its features
    (``correlation``), or if all dissimilarities are equal.

    Args:
        rdm: ``correlation`` or ``sqeuclidean``.
        compare: ``spearman`` or ``pearson``.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (-1.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"isotropic_scaling", "permutation"})
    minimum_samples: int = 3
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {"rsa": "RSA"}
    formula: ClassVar[str] = (
        "corr over pairs of samples of D_x and D_y, D = 1 - correlation of samples or squared distance"
    )
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Kriegeskorte et al. 2008"

    def __init__(
        self, rdm: RDM = "correlation", compare: Compare = "spearman", max_samples: int = 1024, seed: int = 0
    ) -> None:
        super().__init__(max_samples, seed)
        check_options(rdm, compare)
        self.rdm: RDM = rdm
        self.compare: Compare = compare
        if rdm == "sqeuclidean":
            self.invariant_to = frozenset({"orthogonal", "isotropic_scaling", "translation", "permutation"})
        self.minimum_width = 3 if rdm == "correlation" else 1

    @property
    def label(self) -> str:
        """``rsa``, with ``_sqeuclidean`` and ``_pearson`` if they are chosen."""
        parts = ["rsa", *[part for part in (self.rdm, self.compare) if part in ("sqeuclidean", "pearson")]]
        return "_".join(parts)

    def prepare(self, x: Float[Tensor, "n p"]) -> Geometry:
        """Return the dissimilarities or their ranks."""
        return geometry(x, self.rdm, self.compare)

    def between(self, x: Geometry, y: Geometry, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the correlation over the pairs."""
        return correlation(x, y, weight)

    def estimate(
        self, x: Geometry, y: Geometry, unit: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value, and the influences from leaving out each unit in turn and ranking the other pairs again."""
        units = unit.to(x.values.device).expand(x.n, x.n)
        first, second = condensed(units.T, unit.dtype), condensed(units, unit.dtype)
        values = []
        for left_out in range(int(unit.max()) + 1):
            pairs = ((first == left_out) | (second == left_out)).nonzero()[:, 0]
            a, b = (_without(side, pairs) for side in (x, y))
            values.append(a @ b / ((a @ a) * (b @ b)).sqrt())
        return self.between(x, y), influence_of_left_out(torch.stack(values))

    def rearrange(self, x: Geometry, order: Int[Tensor, " n"]) -> Geometry:
        """Return the pairs of the rearranged samples."""
        places = rearranged_pairs(order.to(x.values.device))
        values = x.values.index_select(0, places)
        ranks = None if x.ranks is None else Ranks(values, x.ranks.place.index_select(0, places))
        return Geometry(x.n, values, x.squares, ranks)


def standardized(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Return float64 samples, each about its own mean and of unit norm.

    Half the squared distance of two of them is 1 - their correlation.
    """
    if x.shape[1] < 3:
        raise ValueError(
            f"the correlation of samples needs at least 3 features, found {x.shape[1]}; use rdm=sqeuclidean for such "
            "sites"
        )
    samples = x.detach().to(sum_device(x.device), torch.float64, copy=True)
    low, high = samples.aminmax(dim=1, keepdim=True)
    # Divide by the largest entry first: otherwise the squares could overflow or vanish.
    samples /= torch.maximum(-low, high).clamp_(min=torch.finfo(torch.float64).tiny)
    samples -= samples.mean(1, keepdim=True)
    norm = samples.norm(dim=1, keepdim=True)
    flat = int((norm <= 1e-14 * x.shape[1] ** 0.5).sum())
    if flat:
        raise ValueError(f"{flat} samples have no variance over their features, so they correlate with nothing")
    return samples.div_(norm)


def _without(side: Geometry, left_out: Int[Tensor, " some"]) -> Float[Tensor, " pairs"]:
    """Return the dissimilarities of all pairs but some, or their ranks, about their mean; zero for those left out."""
    if side.ranks is not None:
        return side.ranks.without(left_out)
    values = side.values.double().index_fill(0, left_out, 0)
    mean = values.sum() / (len(values) - len(left_out))
    return values.sub_(mean).index_fill_(0, left_out, 0)


def _covariance(x: Geometry, y: Geometry, weight: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Return the sum of products over pairs; with weights to first order about 1, where ranks move with the weights."""
    value = x.squares if x is y else dot(x.values, y.values)
    if weight is None:
        return value
    slope = x.values.double() * y.values
    if x.ranks is not None and y.ranks is not None:
        slope += below(x.ranks, y.values) + below(y.ranks, x.values)
    return value + row_sums(slope, x.n) @ (weight - 1)
