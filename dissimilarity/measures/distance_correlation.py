"""Distance correlation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_left_out
from dissimilarity.measures.base.checks import (
    ArrayLike,
    Units,
    paired_samples,
    unit_numbers,
    units_suffix,
)
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.centered import Matrix, aligned_without, alignment, matrix
from dissimilarity.measures.numerics.distances import about_mean, pair_distances
from dissimilarity.probe.arguments import choice, flag


def distance_correlation(
    x: ArrayLike, y: ArrayLike, debiased: bool = False, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return the distance correlation of two representations of the same samples; see ``DistanceCorrelation``.

    sqrt(<A, B> / sqrt(<A, A> <B, B>)) with A, B the centered Euclidean distances of each side (Szekely et al. 2007).
    Symmetric; invariant to orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples (debiased: 4), (n, p): a tensor, numpy array or nested list. All samples are compared: n^2
            (p + q) operations, 4 n^2 bytes.
        y: the same samples in the other representation, (n, q).
        debiased: whether to return the squared U-statistic instead of the root of the V-statistic.
        units: the sequence of each sample, if samples of one sequence depend on each other, for the debiased value; by
            default each sample is independent.

    Returns:
        float64 scalar; 1 = same. Biased: in [0, 1], rises with p / n. Debiased: in [-1, 1], about 0 for independent
        data.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{distance_correlation(x, x):.4f} {distance_correlation(x, y):.4f}")
        1.0000 0.9388
    """
    x, y = paired_samples(x, y, 4 if flag("debiased", debiased) else 2)
    distances = replace(distance_matrix(x), sequence=unit_numbers(units, len(x)))
    return rooted(alignment(distances, distance_matrix(y), debiased), debiased)


def distance_matrix(x: Float[Tensor, "n p"]) -> Matrix:
    """Return the distances between the samples and their sums."""
    return matrix(pair_distances(about_mean(x), x.dtype == torch.float32, squared=False), len(x))


def rooted(value: Float[Tensor, "*values"], debiased: bool) -> Float[Tensor, "*values"]:
    """Return the root of a V-statistic, which is nonnegative up to rounding; a U-statistic as it is."""
    return value if debiased else torch.where(value > 0, value, 0.0).sqrt()


class DistanceCorrelation(SampleMeasure):
    """Distance correlation (Szekely et al. 2007), from Euclidean distances A, B between the samples of each side.

    Biased: sqrt(<A, B> / sqrt(<A, A> <B, B>)) of double-centered A and B. Debiased (Szekely & Rizzo 2014):
    <A, B> / sqrt(<A, A> <B, B>) of U-centered A and B, which estimates the square. The debiased value is not defined if
    all samples are equally far apart.

    Args:
        debiased: whether to return the squared U-statistic instead of the root of the V-statistic.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
        units: what the debiased value takes as independent: ``sequence`` (whole sequences, wherever they are known)
            or ``sample`` (each sample, as in the literature).
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
    titles: ClassVar[Mapping[str, str]] = {"distance_correlation": "distance correlation"}
    formula: ClassVar[str] = "sqrt(<A, B> / sqrt(<A, A> <B, B>)), A, B = centered distances; debiased: without the root"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Szekely et al. 2007; unbiased: Szekely & Rizzo 2014"

    def __init__(
        self, debiased: bool = False, max_samples: int = 1024, seed: int = 0, units: Units = "sequence"
    ) -> None:
        super().__init__(max_samples, seed)
        choice("units", units, get_args(Units))
        self.debiased = flag("debiased", debiased)
        self.units: Units = units
        self.by_sequence = debiased and units == "sequence"
        self.bounds = (-1.0 if debiased else 0.0, 1.0)
        self.minimum_samples = 4 if debiased else 2

    @property
    def label(self) -> str:
        """``distance_correlation``, ``distance_correlation_debiased`` or ``distance_correlation_debiased_sample``."""
        return "distance_correlation" + ("_debiased" + units_suffix(True, self.units) if self.debiased else "")

    def prepare(self, x: Float[Tensor, "n p"]) -> Matrix:
        """Return the distances and their sums."""
        return distance_matrix(x)

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Matrix:
        """Return the distances and their sums, with sequences as their units."""
        return replace(self.prepare(x), sequence=sequence if self.by_sequence else None)

    def between(self, x: Matrix, y: Matrix, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the alignment of the centered distances."""
        return rooted(alignment(x, y, self.debiased, weight), self.debiased)

    def estimate(
        self, x: Matrix, y: Matrix, unit: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value, and the influences from leaving out each unit in turn."""
        value, values = (rooted(part, self.debiased) for part in aligned_without(x, y, self.debiased, unit))
        return value, influence_of_left_out(values)

    def rearrange(self, x: Matrix, order: Int[Tensor, " n"]) -> Matrix:
        """Return the distances of the rearranged samples."""
        return x.rearranged(order)
