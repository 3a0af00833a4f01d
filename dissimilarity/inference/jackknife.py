"""Standard errors from sums kept per group of sequences.

Tokens of one sequence depend on each other, so the unit that is left out is a group of whole sequences: f(m - m_g), for
the sums m of all samples and m_g of a group, is the measure without it. Where a formula costs more than reading the
sums does (a decomposition), the infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6) takes the influence of a
group through the derivative of the measure: with weights w_g on the groups' sums m_g,

    theta(w) = f(sum_g w_g m_g),   U_g = d theta / d w_g at w = 1 = <grad f(m), m_g>,
    stderr^2 = G / (G - 1) * sum_g (U_g - mean U)^2.

For a mean this is the ordinary jackknife. One evaluation and one backward pass give the value and its error, whatever
the measure, and a nuclear norm needs no second decomposition because its derivative is the polar factor.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.moments.pair import Moments

LEFT_OUT_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Numbers of a sum without some groups that are made together: few enough to stay in a processor's cache."""


def stderr_of_influence(influence: Float[Tensor, " groups *pairs"]) -> Float[Tensor, "*pairs"]:
    """Standard error from the groups' influences; NaN with fewer than two groups."""
    groups = len(influence)
    if groups < 2:
        return influence.new_full(influence.shape[1:], float("nan"))
    return ((influence - influence.mean(0)).square().sum(0) * groups / (groups - 1)).sqrt()


def stderr_of_left_out(values: Float[Tensor, " groups *pairs"]) -> Float[Tensor, "*pairs"]:
    """Standard error from the values without each of the groups; NaN with fewer than two groups."""
    groups = len(values)
    if groups < 2:
        return values.new_full(values.shape[1:], float("nan"))
    return ((values - values.mean(0)).square().sum(0) * (groups - 1) / groups).sqrt()


def group_pairs(groups: int) -> Int[Tensor, "pairs 2"]:
    """All pairs of groups, or of many groups two for each, as often one group as another."""
    if groups < 6:
        return torch.combinations(torch.arange(groups))
    first = torch.arange(groups)
    return torch.cat([torch.stack([first, (first + step) % groups], 1) for step in (1, 2)])


def stderr_of_pairs_left_out(
    value: Float[Tensor, ""],
    single: Float[Tensor, " groups"],
    double: Float[Tensor, " pairs"],
    pairs: Int[Tensor, "pairs 2"],
) -> Float[Tensor, ""]:
    """Standard error of a value to which groups add in pairs too; NaN with fewer than two groups.

    The jackknife counts twice what hangs on two groups together. That is taken out once (Efron & Stein 1981): the part
    of a pair is value - without one - without the other + without both. It is at most half.

    Args:
        value: with all groups.
        single: without each group.
        double: without each of some pairs of groups.
        pairs: which those are.
    """
    groups = len(single)
    square = stderr_of_left_out(single).square()
    if groups < 3:
        return square.sqrt()
    first, second = single[pairs.to(single.device)].unbind(1)
    together = value - first - second + double
    all_pairs = groups * (groups - 1) / 2
    return torch.maximum(square - all_pairs * together.var(correction=0), square / 2).sqrt()


def estimate(
    formula: Callable[[Moments], Float[Tensor, "*pairs"]], totals: Moments, groups: Moments
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """Values of a formula of moments and their standard errors by the infinitesimal jackknife.

    Args:
        formula: a differentiable function of the sums, over any leading dimensions.
        totals: the sums over all samples, float64, with leading dimensions (pairs) or none.
        groups: the same sums per group, with a further dimension (groups) in front; products of float32 rows may be
            float32, for they serve the error bar only. A size of 1 in place of the pairs stands for sums that all pairs
            share.

    Returns:
        values and standard errors, float64 (pairs).
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {key: total.detach().clone().requires_grad_() for key, total in totals.items()}
        value = formula(leaves)
        gradients = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    count, pairs = len(groups["n"]), value.numel()
    influence = value.new_zeros(count, pairs)
    for key, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            slope = gradient.reshape(pairs, -1).to(groups[key].dtype)
            part = groups[key].reshape(count, -1, slope.shape[1])
            if part.shape[1] == 1:
                along = part[:, 0] @ slope.T
            else:
                along = torch.einsum("gkd,kd->gk", part, slope)
            influence = influence + along.double()
    return value.detach(), stderr_of_influence(influence.reshape(count, *value.shape).detach())


def left_out(
    formula: Callable[[Moments], Float[Tensor, " groups *pairs"]], totals: Moments, groups: Moments
) -> Float[Tensor, " groups *pairs"]:
    """Values of a formula of moments without each group in turn, for formulas that take little beside the sums.

    Args:
        formula: a function of the sums, over any leading dimensions that fit each other.
        totals, groups: as for ``estimate``.
    """
    count = len(groups["n"])
    shared = {key: total[: groups[key].shape[1]] if total.ndim else total for key, total in totals.items()}
    room = LEFT_OUT_AT_ONCE["cuda" if totals["n"].is_cuda else "cpu"]
    at_once = max(1, room // max(total.numel() for total in shared.values()))
    space = {key: total.new_empty((at_once, *total.shape)) for key, total in shared.items()}
    values = []
    for start in range(0, count, at_once):
        stop = min(start + at_once, count)
        rest = {key: sums[: stop - start] for key, sums in space.items()}
        for key, total in shared.items():
            torch.sub(total, rest[key].copy_(groups[key][start:stop]), out=rest[key])
        values.append(formula(rest))
    return torch.cat(values)


def estimate_weighted(
    value: Callable[[Float[Tensor, " n"]], Float[Tensor, ""]], group: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Value of a function of the samples' weights, at weights of one, and its standard error by groups of samples.

    Args:
        value: a differentiable function of float64 weights.
        group: the group of each sample, integers from 0.
    """
    with torch.inference_mode(False), torch.enable_grad():
        weight = torch.ones(len(group), dtype=torch.float64, device=group.device, requires_grad=True)
        found = value(weight)
        (slope,) = torch.autograd.grad(found, weight)
    influence = slope.new_zeros(int(group.max()) + 1).index_add_(0, group, slope)
    return found.detach(), stderr_of_influence(influence)
