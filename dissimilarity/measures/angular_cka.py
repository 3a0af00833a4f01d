"""The angle whose cosine is linear CKA, and the distance between whole models that follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_left_out
from dissimilarity.measures.base.checks import ArrayLike, Units
from dissimilarity.measures.base.moment_measure import Estimate, MomentMeasure
from dissimilarity.measures.cka import CKA, cka
from dissimilarity.measures.numerics.exact import angle
from dissimilarity.measures.numerics.rearranged_hsic import PairKernel
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import PairedSamples
from dissimilarity.moments.second_pass import SecondPass


def angular_cka(x: ArrayLike, y: ArrayLike, debiased: bool = True, units: ArrayLike | None = None) -> Float[Tensor, ""]:
    """Return arccos of linear CKA of two representations of the same samples; see ``AngularCKA``.

    A metric (Williams et al. 2021); invariant to orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 4 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        debiased: whether to use the unbiased HSIC instead of the biased one.
        units: the sequence of each sample, as for ``cka``.

    Returns:
        float64 scalar in radians; 0 = same. Debiased: in [0, pi], about pi / 2 for independent data. Biased: in
        [0, pi / 2].

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{angular_cka(x, x):.4f} {angular_cka(x, y):.4f}")
        0.0000 0.8435
    """
    return angle(cka(x, y, debiased, units))


def product_distance(xs: Sequence[ArrayLike], ys: Sequence[ArrayLike], debiased: bool = True) -> Float[Tensor, ""]:
    """Return the distance of two models of equal depth: sqrt(sum over layers of arccos(CKA)^2), a metric.

    Args:
        xs: representations (n, width) of one model, layer by layer; widths may differ.
        ys: those of the other model, of the same samples.
        debiased: whether to use the unbiased HSIC instead of the biased one.

    Returns:
        float64 scalar; 0 = every layer is the same up to rotation, scale and translation.

    Raises:
        ValueError: no layers, or different numbers of layers.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0], [4.0, 0.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5], [0.0]]
        >>> print(f"{product_distance([x, x], [x, y]):.4f}")
        0.8435
    """
    if len(xs) != len(ys) or not len(xs):
        raise ValueError(
            f"expected as many layers of both models, at least one, found {len(xs)} and {len(ys)}; "
            "leave out the layers without a counterpart"
        )
    angles = [angular_cka(x, y, debiased) for x, y in zip(xs, ys, strict=True)]
    return torch.stack(angles).square().sum().sqrt()


class AngularCKA(MomentMeasure):
    """arccos of linear CKA, a metric (Williams et al. 2021), by default of the debiased one.

    CKA is the cosine between two kernels, centered (biased) or U-centered (debiased), so its arccos is their angle.
    ``product_distance`` combines the angles of all layers of two models.

    The value is NaN where ``CKA`` is, and where CKA is above 1, which it may be with few sequences as units. An angle t
    has the rounding of CKA times 1 / t: from float32 samples up to 1e-3 near zero (none between equal inputs). From
    float64 samples, angles below 2e-6 count as zero.

    Args:
        debiased: whether to use the unbiased HSIC instead of the biased one.
        units: what the unbiased HSIC takes as independent: ``sequence`` (whole sequences, wherever they are known)
            or ``sample`` (each sample, as in the literature).
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, torch.pi)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = True
    invariant_to: ClassVar[frozenset[str]] = CKA.invariant_to
    minimum_samples: int = CKA.minimum_samples
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {"angular_cka": "angular CKA (rad)"}
    formula: ClassVar[str] = "arccos(HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))), K = X X', L = Y Y'"
    cost: ClassVar[str] = CKA.cost
    source: ClassVar[str] = "Williams et al. 2021; sum over layers: Brown et al. 2023"

    def __init__(self, debiased: bool = True, units: Units = "sequence") -> None:
        super().__init__()
        self._cosine = CKA(debiased, units)
        self.debiased, self.by_sequence = self._cosine.debiased, self._cosine.by_sequence
        self.units: Units = units
        self.bounds = (0.0, torch.pi if debiased else torch.pi / 2)

    @property
    def label(self) -> str:
        """``angular_cka``, ``angular_cka_sample`` or ``angular_cka_biased``."""
        return f"angular_{self._cosine.label}"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the angle from sums."""
        return angle(self._cosine.from_moments(m))

    def from_terms(self, m: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> Float[Tensor, "*pairs"]:
        """Return the angle from sums and the self terms of both sides."""
        return angle(self._cosine.from_terms(m, x, y))

    @property
    def reads_kernels(self) -> bool:
        """As for ``CKA``."""
        return self.by_sequence

    def of_kernels(
        self, x: PairKernel, y: PairKernel, order: Int[Tensor, "nulls sequences"], x_terms: Any, y_terms: Any
    ) -> Float[Tensor, " nulls"]:
        """Return the angle with sequence order[k, s] of x in the place of sequence s."""
        return angle(self._cosine.of_kernels(x, y, order, x_terms, y_terms))

    def self_terms(self, totals: Moments, units: Moments) -> Float[Tensor, " times"]:
        """Return the self terms of ``CKA``."""
        return self._cosine.self_terms(totals, units)

    def estimate(
        self, totals: Moments, units: Moments, x: Sequence[Tensor], y: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, " units *pairs"]]:
        """Return the angle from sums, and the influences from leaving out each unit in turn."""
        cosine, left_out = self._cosine.left_out(totals, units, x, y)
        return angle(cosine), influence_of_left_out(angle(left_out))

    def terms_again(self, totals: Moments) -> SecondPass[Float[Tensor, " times"]]:
        """Return the self terms of ``CKA``."""
        return self._cosine.terms_again(totals)

    def estimate_again(self, totals: Moments, x: Sequence[Tensor], y: Sequence[Tensor]) -> SecondPass[Estimate]:
        """Return the angle from sums, and the influences from leaving out each sequence in turn."""
        left_out = self._cosine.left_out_again(totals, x, y)
        return left_out.then(lambda values: (angle(values[0]), influence_of_left_out(angle(values[1]))))

    def sample_influence(self, totals: Moments, samples: PairedSamples) -> Float[Tensor, "samples pairs"]:
        """Return the derivative of the angle with respect to the weight of each sample, as for ``CKA``."""
        slope = self._cosine.sample_influence(totals, samples)
        cosine = self._cosine.from_moments(totals)
        return -slope / (1 - cosine.square()).clamp(min=1e-12).sqrt()
