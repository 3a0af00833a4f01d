"""Distance correlation."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import stderr_of_left_out
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.centered import Matrix, alignment, left_out, matrix
from dissimilarity.measures.numerics.distances import about_mean, pair_distances


def distance_correlation(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], debiased: bool = False) -> Float[Tensor, ""]:
    """Distance correlation of two representations of the same samples; see ``DistanceCorrelation``.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations, 4 n^2 bytes.
        debiased: the squared U-statistic in place of the root of the V-statistic.

    Returns:
        float64 scalar; 1 = same. Biased: in [0, 1], rises with p / n. Debiased: in [-1, 1], about 0 for independent
        data.
    """
    return DistanceCorrelation(debiased).of(x, y)


class DistanceCorrelation(SampleMeasure):
    """Distance correlation (Szekely et al. 2007), from Euclidean distances A, B between the samples of each side.

    Biased: sqrt(<A, B> / sqrt(<A, A> <B, B>)) of double-centered A and B. Debiased (Szekely & Rizzo 2014):
    <A, B> / sqrt(<A, A> <B, B>) of U-centered A and B, which estimates the square. Not defined where all samples are
    equally far apart (debiased).

    Args:
        debiased: the squared U-statistic in place of the root of the V-statistic.
        samples: most rows that are compared.
        seed: which rows.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "sqrt(<A, B> / sqrt(<A, A> <B, B>)), A, B = centered distances; debiased: without the root"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Szekely et al. 2007; unbiased: Szekely & Rizzo 2014"

    def __init__(self, debiased: bool = False, samples: int = 1024, seed: int = 0) -> None:
        super().__init__(samples, seed)
        self.debiased = debiased
        self.bounds = (-1.0 if debiased else 0.0, 1.0)
        self.minimum_samples = 4 if debiased else 2

    @property
    def label(self) -> str:
        """``distance_correlation`` or ``distance_correlation_debiased``."""
        return "distance_correlation_debiased" if self.debiased else "distance_correlation"

    def prepare(self, x: Float[Tensor, "n p"]) -> Matrix:
        """Distances and their sums."""
        return matrix(pair_distances(about_mean(x), x.dtype == torch.float32, squared=False), len(x))

    def between(self, x: Matrix, y: Matrix, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Alignment of the centered distances."""
        return self._rooted(alignment(x, y, self.debiased, weight))

    def estimate(self, x: Matrix, y: Matrix, group: Int[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value and its error by leaving out each group in turn."""
        return self.between(x, y), stderr_of_left_out(self._rooted(left_out(x, y, self.debiased, group)))

    def _rooted(self, value: Tensor) -> Tensor:
        """The root of a V-statistic, which is not negative: what lies below zero is rounding."""
        return value if self.debiased else torch.where(value > 0, value, 0.0).sqrt()

    def rearrange(self, x: Matrix, order: Int[Tensor, " n"]) -> Matrix:
        """Distances of the rearranged rows."""
        return x.rearranged(order)
