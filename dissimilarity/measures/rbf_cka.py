"""CKA with a Gaussian kernel."""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import stderr_of_left_out
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.centered import Matrix, alignment, left_out, matrix
from dissimilarity.measures.numerics.distances import about_mean, pair_distances


def rbf_cka(
    x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], debiased: bool = True, bandwidth: float = 1.0
) -> Float[Tensor, ""]:
    """CKA of Gaussian kernels exp(-d^2 / (2 sigma^2)); see ``RBFCKA``.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations, 4 n^2 bytes.
        debiased: unbiased HSIC, or the biased one.
        bandwidth: sigma in units of the median distance between two different samples.

    Returns:
        float64 scalar; 1 = same. Debiased: in [-1, 1], about 0 for independent data. Biased: in [0, 1].
    """
    return RBFCKA(debiased, bandwidth).of(x, y)


class RBFCKA(SampleMeasure):
    """CKA with Gaussian kernels (Kornblith et al. 2019), by default with the unbiased HSIC_1 of Song et al. (2012).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), sigma = bandwidth times the
    median distance of two different samples (pairs off the diagonal alone), on each side its own. Not defined where
    that median is zero, or where all samples are equally far apart (debiased).

    Args:
        debiased: unbiased HSIC, or the biased one.
        bandwidth: sigma in units of the median distance.
        samples: most rows that are compared.
        seed: which rows.
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
    formula: ClassVar[str] = "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = exp(-distance^2 / (2 (median distance)^2))"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Kornblith et al. 2019; unbiased HSIC: Song et al. 2012"

    def __init__(self, debiased: bool = True, bandwidth: float = 1.0, samples: int = 1024, seed: int = 0) -> None:
        super().__init__(samples, seed)
        if not 0 < bandwidth < float("inf"):
            raise ValueError(f"expected a bandwidth above 0, found {bandwidth}")
        self.debiased, self.bandwidth = debiased, bandwidth
        self.bounds = (-1.0 if debiased else 0.0, 1.0)
        self.minimum_samples = 4 if debiased else 2

    @property
    def label(self) -> str:
        """``rbf_cka`` or ``rbf_cka_biased``, with the bandwidth where it is not 1."""
        kind = "rbf_cka" if self.debiased else "rbf_cka_biased"
        return kind if self.bandwidth == 1 else f"{kind}_{self.bandwidth:g}"

    def prepare(self, x: Float[Tensor, "n p"]) -> Matrix:
        """The kernel, less its value at the median, and its sums."""
        pairs = pair_distances(about_mean(x), x.dtype == torch.float32)
        median = _median_of_roots(pairs)
        if not bool(median > 0):
            raise ValueError("the median distance is zero: more than half of all pairs of samples are equal")
        rate = -0.5 / (self.bandwidth * median) ** 2
        # About one constant, which centering takes away; U-centering leaves the diagonal out first.
        middle = torch.exp(rate * median**2).item()
        kernel = pairs.mul_(rate.to(pairs.dtype)).exp_().sub_(middle)
        return matrix(kernel, len(x), 0.0 if self.debiased else 1 - middle, middle)

    def between(self, x: Matrix, y: Matrix, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Alignment of the centered kernels."""
        return alignment(x, y, self.debiased, weight)

    def estimate(self, x: Matrix, y: Matrix, group: Int[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value and its error by leaving out each group in turn, the kernels as they are."""
        return self.between(x, y), stderr_of_left_out(left_out(x, y, self.debiased, group))

    def rearrange(self, x: Matrix, order: Int[Tensor, " n"]) -> Matrix:
        """The kernel of the rearranged rows."""
        return x.rearranged(order)


def _median_of_roots(squares: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Median of the square roots in float64, of an even number the mean of the middle two."""
    middle = [(len(squares) - 1) // 2, len(squares) // 2]
    # numpy selects in a fraction of torch's time.
    selected = np.partition(squares.cpu().numpy(), middle)[middle]
    return torch.as_tensor(selected, device=squares.device).double().sqrt().mean()
