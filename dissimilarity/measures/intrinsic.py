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
    return intrinsic_from_sums({"n": torch.tensor(float(len(samples))), **sums})[INTRINSIC.index(name)]


def intrinsic_from_sums(m: Moments) -> Float[Tensor, " measures"]:
    """Return all intrinsic measures of one side, from its sums under first-side names."""
    return _decomposed({key: m[key][None] for key in KEYS})


def estimate_intrinsic(totals: Moments, units: Moments) -> tuple[Tensor, Float[Tensor, "units measures"]]:
    """Return all intrinsic measures of one side, and the influences of the units on them.

    Args:
        totals: ``n`` and the sums of the side, under first-side names, over all samples.
        units: the same sums per jackknife unit.
    """
    return estimate(_decomposed, _for_each_measure(totals), {key: units[key][:, None] for key in KEYS})


def estimate_intrinsic_again(totals: Moments) -> SecondPass[tuple[Tensor, Tensor]]:
    """Return all intrinsic measures of one side, and the influences of sequences, by reading the samples again.

    Args:
        totals: as for ``estimate_intrinsic``.

    Returns:
        values (measures) and influences (sequences, measures).
    """
    return estimate_again(_decomposed, _for_each_measure(totals))


def _for_each_measure(totals: Moments) -> Moments:
    return {key: totals[key].expand(len(INTRINSIC), *totals[key].shape) for key in KEYS}


def _decomposed(m: Moments) -> Float[Tensor, " measures"]:
    """Return the measures from sums that are the same for all of them, with one decomposition for their derivatives."""
    covariance = m["xx"] - m["x"][:, :, None] * m["x"][:, None] / m["n"][:, None, None]
    values, vectors = torch.linalg.eigh(covariance[0].detach())
    width, roundoff = len(values), (m["eps_x"] / m["n"])[0].item()
    is_real = values > (8 * width**0.5 * roundoff + 4e-15 * width) * values[-1]
    with torch.enable_grad():
        spectrum = values[is_real].flip(0).clone().requires_grad_()
        measures = from_eigenvalues(spectrum)
        if not covariance.requires_grad:
            return measures.detach()
        slopes = [torch.autograd.grad(value, spectrum, retain_graph=True)[0] for value in measures]
        vectors = vectors[:, is_real].flip(1)
        # The derivative of an eigenvalue is v v'.
        gradients = torch.stack([(vectors * slope) @ vectors.mT for slope in slopes])
        change = (gradients * covariance).sum((-2, -1))
        return measures.detach() + change - change.detach()


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
