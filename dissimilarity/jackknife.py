"""Standard errors from sums kept per group of sequences.

Tokens of one sequence depend on each other, so the unit that is left out is a group of whole sequences. Instead of
recomputing a measure without each group, the infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6) takes the
influence of a group through the derivative of the measure: with weights w_g on the groups' sums m_g,

    theta(w) = f(sum_g w_g m_g),   U_g = d theta / d w_g at w = 1 = <grad f(m), m_g>,
    stderr^2 = G / (G - 1) * sum_g (U_g - mean U)^2.

For a mean this is the ordinary jackknife. One evaluation and one backward pass give the value and its error, whatever
the measure, and a nuclear norm needs no second decomposition because its derivative is the polar factor.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moments import Moments


def stderr_of_influence(influence: Float[Tensor, " groups"]) -> Float[Tensor, ""]:
    """Standard error from the groups' influences; NaN with fewer than two groups."""
    groups = len(influence)
    if groups < 2:
        return influence.new_tensor(float("nan"))
    return ((influence - influence.mean()).square().sum() * groups / (groups - 1)).sqrt()


def estimate(
    formula: Callable[[Moments], Float[Tensor, ""]], totals: Moments, groups: Moments
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Value of a formula of moments and its jackknife standard error.

    Args:
        formula: a differentiable function of the sums.
        totals: the sums over all samples, float64.
        groups: the same sums per group, each with a leading group dimension; float32 is enough, for they serve the
            error bar only.

    Returns:
        value and standard error, float64 scalars.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {key: total.detach().clone().requires_grad_() for key, total in totals.items()}
        value = formula(leaves)
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    influence = value.new_zeros(len(groups["n"]))
    for key, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            part = groups[key].reshape(len(influence), -1)
            influence = influence + (part @ gradient.flatten().to(part.dtype)).double()
    return value.detach(), stderr_of_influence(influence.detach())


def stderr_of_mean(values: Float[Tensor, " n"], group: Tensor) -> Float[Tensor, ""]:
    """Standard error of the mean of values that come in groups.

    Args:
        values: one value a sample.
        group: the group of each sample, integers from 0.
    """
    deviation = (values - values.mean()).double() / len(values)
    influence = deviation.new_zeros(int(group.max()) + 1).index_add_(0, group, deviation)
    return stderr_of_influence(influence)
