"""Measures of one representation alone, from the eigenvalues of its covariance.

With eigenvalues l_1 >= l_2 >= ... of Xc'Xc, Xc the centered samples:

- ``rankme``: exp(-sum p_i log p_i), p_i = sqrt(l_i) / sum sqrt(l), the effective rank of Roy & Vetterli (2007), with
  which Garrido et al. (2023) rank representations without labels. They leave the mean in and add a small number to p.
- ``participation_ratio``: (sum l)^2 / sum l^2, the number of dimensions with about equal variance (Gao et al. 2017).
- ``alpha_req``: a where l_i is proportional to i^-a, by least squares of log l_i on log i with weights 1 / i (Stringer
  et al. 2019; Agrawal et al. 2022). Large values mean that few directions dominate.
- ``first_component_share``: l_1 / sum l.

All are invariant to rotation, scale and translation. Eigenvalues that are only rounding are left out.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.influence import estimate_again
from dissimilarity.inference.jackknife import estimate
from dissimilarity.measures.base.checks import ArrayLike, as_tensors, check_count, check_samples, no_variance
from dissimilarity.moments.pair import Moments, moment_side
from dissimilarity.moments.products import as_samples
from dissimilarity.moments.second_pass import SecondPass

INTRINSIC = ("rankme", "participation_ratio", "alpha_req", "first_component_share")
"""The names of the measures, in the order of ``from_eigenvalues``."""

KEYS = ("n", "x", "xx", "eps_x")
"""The sums that they follow from."""


def rankme(x: ArrayLike) -> Float[Tensor, ""]:
    """Return the effective rank: exp of the entropy of the normalized singular values (Garrido et al. 2023).

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.

    Returns:
        float64 scalar from 1 to the rank of the centered samples.

    Examples:
        >>> print(f"{rankme([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):.3f}")
        2.000
    """
    return _of_samples(x, "rankme")


def participation_ratio(x: ArrayLike) -> Float[Tensor, ""]:
    """Return (sum l)^2 / sum l^2 over the eigenvalues l of the covariance (Gao et al. 2017).

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.

    Returns:
        float64 scalar from 1 to the rank of the centered samples.

    Examples:
        >>> print(f"{participation_ratio([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):.3f}")
        1.471
    """
    return _of_samples(x, "participation_ratio")


def alpha_req(x: ArrayLike) -> Float[Tensor, ""]:
    """Return the power a with which the eigenvalues of the covariance fall, l_i ~ i^-a (Agrawal et al. 2022).

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.

    Returns:
        float64 scalar, 0 or more; NaN for a single eigenvalue.

    Examples:
        >>> print(f"{alpha_req([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):.3f}")
        2.000
    """
    return _of_samples(x, "alpha_req")


def first_component_share(x: ArrayLike) -> Float[Tensor, ""]:
    """Return the share of the variance in the first principal component.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.

    Returns:
        float64 scalar above 0, at most 1.

    Examples:
        >>> print(f"{first_component_share([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):.3f}")
        0.800
    """
    return _of_samples(x, "first_component_share")


def _of_samples(x: ArrayLike, name: str) -> Float[Tensor, ""]:
    (samples,) = as_tensors(x)
    check_samples(samples, samples)
    check_count(len(samples), 2)
    if bool((samples == samples[:1]).all()):
        raise no_variance("x")
    sums = moment_side(as_samples(samples).double(), dual=True).sums
    return Spectrum.of({"n": torch.tensor(float(len(samples))), **sums}).measures()[INTRINSIC.index(name)]


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of Xc'Xc of one side that are more than rounding.

    Attributes:
        totals: the sums that they follow from.
        values: the eigenvalues, largest first.
        vectors: their eigenvectors.
        lost: number of directions along which the samples may vary by less than the rounding of their products.
    """

    totals: Moments
    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "p rank"]
    lost: int

    @staticmethod
    def of(totals: Moments) -> "Spectrum":
        """Decompose the sums of one side over all samples, under first-side names."""
        totals = {key: totals[key] for key in KEYS}
        covariance = _covariance(totals)
        values, vectors = torch.linalg.eigh(covariance)
        width, roundoff = len(values), (totals["eps_x"] / totals["n"]).item()
        # Products round in proportion to the columns that they are of, so a few large columns spoil no other direction.
        # The directions of dependent columns get up to 0.3 times this size.
        rounding = 2 * width**0.5 * roundoff * (vectors.square().mT @ covariance.diagonal().clamp(min=0))
        of_solver = 4e-15 * width * values[-1]
        is_real = values > rounding + of_solver
        lost = int((~is_real & (rounding > of_solver)).sum())
        return Spectrum(totals, values[is_real].flip(0), vectors[:, is_real].flip(1), lost)

    def measures(self) -> Float[Tensor, " measures"]:
        """Return all intrinsic measures."""
        return from_eigenvalues(self.values)

    def estimate(self, units: Moments) -> tuple[Tensor, Float[Tensor, "units measures"]]:
        """Return all intrinsic measures, and the influences of the units on them.

        Args:
            units: the same sums as ``totals`` per jackknife unit.
        """
        return estimate(self._formula, self._for_each_measure(), {key: units[key][:, None] for key in KEYS})

    def estimate_again(self) -> SecondPass[tuple[Tensor, Tensor]]:
        """Return all intrinsic measures, and the influences of sequences, by reading the samples again.

        Returns:
            values (measures) and influences (sequences, measures).
        """
        return estimate_again(self._formula, self._for_each_measure())

    def _for_each_measure(self) -> Moments:
        return {key: value.expand(len(INTRINSIC), *value.shape) for key, value in self.totals.items()}

    def _formula(self, m: Moments) -> Float[Tensor, " measures"]:
        """Return the measures with their derivatives in the sums, which are repeated for each measure."""
        covariance = _covariance(m)
        with torch.enable_grad():
            values = self.values.clone().requires_grad_()
            measures = from_eigenvalues(values)
            slopes = [torch.autograd.grad(value, values, retain_graph=True)[0] for value in measures]
            # The derivative of an eigenvalue is v v'.
            gradients = torch.stack([(self.vectors * slope) @ self.vectors.mT for slope in slopes])
            change = (gradients * covariance).sum((-2, -1))
            return measures.detach() + change - change.detach()


def _covariance(m: Moments) -> Float[Tensor, "*measures p p"]:
    return m["xx"] - m["x"][..., :, None] * m["x"][..., None, :] / m["n"][..., None, None]


def from_eigenvalues(values: Float[Tensor, " rank"]) -> Float[Tensor, " measures"]:
    """Return the measures from the positive eigenvalues of a covariance, largest first."""
    sizes = values.sqrt() / values.sqrt().sum()
    place = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    weight, along = 1 / place / (1 / place).sum(), place.log()
    along = along - weight @ along
    return torch.stack(
        [
            torch.exp(-(sizes * sizes.log()).sum()),
            values.sum().square() / values.square().sum(),
            # a constant: the derivative of 0 / 0 would spoil those of the other measures
            -(weight * along * values.log()).sum() / (weight * along.square()).sum()
            if len(values) > 1
            else values.new_tensor(math.nan),
            values[0] / values.sum(),
        ]
    )
