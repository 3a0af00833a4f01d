"""CKA with a Gaussian kernel."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, get_args

import numpy as np
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
from dissimilarity.probe.arguments import choice, flag, number


def rbf_cka(
    x: ArrayLike, y: ArrayLike, debiased: bool = True, bandwidth: float = 1.0, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return CKA with Gaussian kernels of two representations of the same samples; see ``RBFCKA``.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = exp(-distance^2 / (2 sigma^2)) (Kornblith et al. 2019). Symmetric;
    invariant to orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 4 samples (biased: 2), (n, p): a tensor, numpy array or nested list. All samples are compared: n^2
            (p + q) operations, 4 n^2 bytes.
        y: the same samples in the other representation, (n, q).
        debiased: whether to use the unbiased HSIC instead of the biased one.
        bandwidth: sigma in units of the median distance between two different samples.
        units: the sequence of each sample, if samples of one sequence depend on each other; by default each sample is
            independent.

    Returns:
        float64 scalar; 1 = same. Debiased: in [-1, 1], about 0 for independent data. Biased: in [0, 1].

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{rbf_cka(x, x):.4f} {rbf_cka(x, y):.4f}")
        1.0000 0.8564
    """
    number("bandwidth", bandwidth)
    x, y = paired_samples(x, y, 4 if flag("debiased", debiased) else 2)
    a, b = (kernel_matrix(side, debiased, bandwidth) for side in (x, y))
    return alignment(replace(a, sequence=unit_numbers(units, len(x))), b, debiased)


def kernel_matrix(x: Float[Tensor, "n p"], debiased: bool, bandwidth: float) -> Matrix:
    """Return the kernel minus its value at the median distance, and its sums."""
    pairs = pair_distances(about_mean(x), x.dtype == torch.float32)
    median = _median_of_roots(pairs)
    if not bool(median > 0):
        raise ValueError("the median distance is zero: more than half of all pairs of samples are equal")
    rate = -0.5 / (bandwidth * median) ** 2
    # Centering removes a constant, so the kernel is stored about one; U-centering leaves the diagonal out first.
    middle = torch.exp(rate * median**2).item()
    kernel = pairs.mul_(rate.to(pairs.dtype)).exp_().sub_(middle)
    return matrix(kernel, len(x), 0.0 if debiased else 1 - middle, middle)


class RBFCKA(SampleMeasure):
    """CKA with Gaussian kernels (Kornblith et al. 2019), by default with the unbiased HSIC_1 of Song et al. (2012).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)). On each side, sigma = bandwidth
    times the median distance between two different samples of that side. The value is not defined if that median is
    zero, or (debiased) if all samples are equally far apart.

    Args:
        debiased: whether to use the unbiased HSIC instead of the biased one.
        bandwidth: sigma in units of the median distance.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
        units: what the unbiased HSIC takes as independent: ``sequence`` (whole sequences, wherever they are known)
            or ``sample`` (each sample, as in the literature).
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
    titles: ClassVar[Mapping[str, str]] = {"rbf_cka": "RBF CKA"}
    formula: ClassVar[str] = "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = exp(-distance^2 / (2 (median distance)^2))"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Kornblith et al. 2019; unbiased HSIC: Song et al. 2012"

    def __init__(
        self,
        debiased: bool = True,
        bandwidth: float = 1.0,
        max_samples: int = 1024,
        seed: int = 0,
        units: Units = "sequence",
    ) -> None:
        super().__init__(max_samples, seed)
        choice("units", units, get_args(Units))
        self.debiased, self.bandwidth = flag("debiased", debiased), number("bandwidth", bandwidth)
        self.units: Units = units
        self.by_sequence = debiased and units == "sequence"
        self.bounds = (-1.0 if debiased else 0.0, 1.0)
        self.minimum_samples = 4 if debiased else 2

    @property
    def label(self) -> str:
        """``rbf_cka``, ``rbf_cka_sample`` or ``rbf_cka_biased``, with the bandwidth if it is not 1."""
        kind = "rbf_cka" + units_suffix(self.debiased, self.units)
        return kind if self.bandwidth == 1 else f"{kind}_{self.bandwidth:g}"

    def prepare(self, x: Float[Tensor, "n p"]) -> Matrix:
        """Return the kernel and its sums."""
        return kernel_matrix(x, self.debiased, self.bandwidth)

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Matrix:
        """Return the kernel and its sums, with sequences as its units."""
        return replace(self.prepare(x), sequence=sequence if self.by_sequence else None)

    def between(self, x: Matrix, y: Matrix, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the alignment of the centered kernels."""
        return alignment(x, y, self.debiased, weight)

    def estimate(
        self, x: Matrix, y: Matrix, unit: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value, and the influences from leaving out each unit in turn with the kernels held fixed."""
        value, left_out_values = aligned_without(x, y, self.debiased, unit)
        return value, influence_of_left_out(left_out_values)

    def rearrange(self, x: Matrix, order: Int[Tensor, " n"]) -> Matrix:
        """Return the kernel of the rearranged samples."""
        return x.rearranged(order)


def _median_of_roots(squares: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Return the median of the square roots in float64; of an even number, the mean of the middle two."""
    middle = [(len(squares) - 1) // 2, len(squares) // 2]
    # numpy selects in a fraction of torch's time.
    selected = np.partition(squares.cpu().numpy(), middle)[middle]
    return torch.as_tensor(selected, device=squares.device).double().sqrt().mean()
