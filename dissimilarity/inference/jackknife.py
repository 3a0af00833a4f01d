"""Influences of jackknife units on a value, from sums per unit, and what follows: standard errors, intervals.

Tokens of one sequence depend on each other, so the jackknife leaves out units of one or more whole sequences. With the
sums m of all samples and m_u of a unit, f(m - m_u) is the measure without that unit. If evaluating a formula costs more
than reading the sums (a decomposition), the infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6) takes the
influence of a unit from the derivative of the measure: with weights w_u on the units' sums m_u,

    theta(w) = f(sum_u w_u m_u),   U_u = d theta / d w_u at w = 1 = <grad f(m), m_u>,
    stderr^2 = G / (G - 1) * sum_u (U_u - mean U)^2   for G units.

For a mean this is the ordinary jackknife. One evaluation and one backward pass give the value and its error, whatever
the measure. A nuclear norm needs no second decomposition because its derivative is the polar factor.

Influences on one probe set can be added: that of a difference of two values is the difference of their influences, so
the difference has a standard error of its own, without what both values have in common.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy import special
from torch import Tensor

from dissimilarity.moments.halves import HALF, in_first_half
from dissimilarity.moments.pair import Moments

FEW_UNITS = 6
"""Number of units from which not all pairs of them are left out."""

LEFT_OUT_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Numbers that are computed together when a unit is subtracted from a sum: few enough to stay in the cache."""


def stderr_of_influence(influence: Float[Tensor, " units *pairs"]) -> Float[Tensor, "*pairs"]:
    """Return the standard error from the units' influences; NaN with fewer than two units.

    Examples:
        >>> print(f"{stderr_of_influence(torch.tensor([0.1, -0.2, 0.1])):.3f}")
        0.300
    """
    n_units = len(influence)
    if n_units < 2:
        return influence.new_full(influence.shape[1:], float("nan"))
    return ((influence - influence.mean(0)).square().sum(0) * n_units / (n_units - 1)).sqrt()


def influence_of_left_out(values: Float[Tensor, " units *pairs"]) -> Float[Tensor, " units *pairs"]:
    """Return the units' influences from the values without each unit in turn.

    Examples:
        The jackknife of a mean is the usual standard error of the mean.

        >>> x = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
        >>> left_out_means = (x.sum() - x) / 3
        >>> print(f"{stderr_of_influence(influence_of_left_out(left_out_means)):.4f} {x.std() / 2:.4f}")
        1.3229 1.3229
    """
    return (values.mean(0) - values) * (len(values) - 1) / len(values)


def plus_minus(stderr: float, n_units: int) -> str:
    """Return half of a 95% interval as it follows a value of three digits; empty without an error.

    >>> "0.500" + plus_minus(0.1, 8), plus_minus(math.nan, 8)
    ('0.500 ± 0.236', '')
    """
    half = float(half_width(stderr, n_units))
    return f" ± {half:.3f}" if math.isfinite(half) else ""


def half_width(stderr: np.ndarray | float, n_units: np.ndarray | int) -> np.ndarray | float:
    """Return half of the 95% interval of values: Student's t with one degree of freedom fewer than there are units.

    Examples:
        >>> half_width(np.array([0.1]), np.array([1000, 16, 1])).round(3).tolist()
        [0.196, 0.213, nan]
    """
    return special.stdtrit(n_units - 1.0, 0.975) * stderr


def unit_pairs(n_units: int) -> Int[Tensor, "pairs 2"]:
    """Return all pairs of units, or with six or more units two pairs per unit, each unit equally often."""
    if n_units < FEW_UNITS:
        return torch.combinations(torch.arange(n_units))
    first = torch.arange(n_units)
    return torch.cat([torch.stack([first, (first + step) % n_units], 1) for step in (1, 2)])


def over_pairs(values: Shaped[Tensor, "n units"]) -> Shaped[Tensor, "n pairs"]:
    """Return the sum of the values of both units of each pair of ``unit_pairs``.

    >>> over_pairs(torch.tensor([[1, 10, 100]])).tolist()
    [[11, 101, 110]]
    """
    if values.shape[1] < FEW_UNITS:
        return values[:, unit_pairs(values.shape[1])].sum(-1)
    # Shifting all columns takes a tenth of the time of indexing them.
    return torch.cat([values + values.roll(-step, 1) for step in (1, 2)], 1)


def influence_of_pairs_left_out(
    value: Float[Tensor, ""],
    single: Float[Tensor, " units"],
    double: Float[Tensor, " pairs"],
    pairs: Int[Tensor, "pairs 2"],
    together: int = 2,
) -> Float[Tensor, " units"]:
    """Return the influences of units on a value in which some of them interact.

    The jackknife counts K times what depends on K units together (Efron & Stein 1981), and the K (K - 1) / 2 pairs of
    them interact: value - (without one) - (without the other) + (without both). The variance of all pairs is K (K - 1)
    / 2 times that part too, so 2 / K of it is what was counted too often. At most half of the variance is removed, from
    all influences alike.

    Args:
        value: value with all units.
        single: without each unit.
        double: without each of some pairs of units.
        pairs: the units of those pairs.
        together: number of units K that interact.
    """
    n_units, influence = len(single), influence_of_left_out(single)
    variance = stderr_of_influence(influence).square()
    if n_units < 3 or not variance:
        return influence
    first, second = single[pairs.to(single.device)].unbind(1)
    interaction = value - first - second + double
    all_pairs = n_units * (n_units - 1) / 2
    removed = (2 / together * all_pairs * interaction.var(correction=0)).minimum(variance / 2)
    return influence * (1 - removed / variance).sqrt()


def estimate(
    formula: Callable[[Moments], Float[Tensor, "*pairs"]], totals: Moments, units: Moments
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, " units *pairs"]]:
    """Return values of a formula of moments, and the influences of the units, by the infinitesimal jackknife.

    Args:
        formula: a differentiable function of the sums, over any leading dimensions.
        totals: the sums over all samples, float64, with leading dimensions (pairs) or none.
        units: the same sums per unit, with a further leading dimension (units), and none over halves: each unit adds
            its whole sums to those of its half. Products of float32 samples may be float32, because they serve the
            error bar only. A size of 1 instead of the pairs stands for sums that all pairs share.

    Returns:
        values (pairs) and influences (units, pairs), float64.
    """
    value, slopes = with_slopes(formula, totals)
    n_units, pairs = len(units["n"]), value.numel()
    influence = value.new_zeros(n_units, pairs)
    for key, slope in slopes.items():
        unit_sums = units[key.removesuffix(HALF)]
        slope = slope.reshape(pairs, -1).to(unit_sums.dtype)
        sums = unit_sums.reshape(n_units, -1, slope.shape[1])
        shared = sums.shape[1] == 1
        share = sums[:, 0] @ slope.T if shared else torch.einsum("gkd,kd->gk", sums, slope)
        if key.endswith(HALF):
            share = share * in_first_half(torch.arange(n_units, device=share.device))[:, None]
        influence = influence + share.double()
    return value, influence.reshape(n_units, *value.shape)


def with_slopes(formula: Callable[[Moments], Float[Tensor, "*pairs"]], totals: Moments) -> tuple[Tensor, Moments]:
    """Return values of a formula of moments, and its derivative with respect to each sum that it reads."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {key: total.detach().clone().requires_grad_() for key, total in totals.items()}
        value = formula(leaves)
        gradients = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    slopes = {key: slope.detach() for key, slope in zip(leaves, gradients, strict=True) if slope is not None}
    return value.detach(), slopes


def left_out(
    formula: Callable[[Moments], Float[Tensor, " units *pairs"]], totals: Moments, units: Moments
) -> Float[Tensor, " units *pairs"]:
    """Return values of a formula of moments without each unit in turn, for formulas that cost little beside the sums.

    Args:
        formula: a function of the sums, over any leading dimensions that fit each other.
        totals: the sums over all samples, as for ``estimate``.
        units: the sums per unit, as for ``estimate``.
    """
    n_units = len(units["n"])
    shared = {key: total[: units[key].shape[1]] if total.ndim else total for key, total in totals.items()}
    max_numbers = LEFT_OUT_AT_ONCE["cuda" if totals["n"].is_cuda else "cpu"]
    at_once = max(1, max_numbers // max(total.numel() for total in shared.values()))
    space = {key: total.new_empty((at_once, *total.shape)) for key, total in shared.items()}
    values = []
    for start in range(0, n_units, at_once):
        stop = min(start + at_once, n_units)
        remaining = {key: sums[: stop - start] for key, sums in space.items()}
        for key, total in shared.items():
            torch.sub(total, remaining[key].copy_(units[key][start:stop]), out=remaining[key])
        values.append(formula(remaining))
    return torch.cat(values)


def estimate_weighted(
    formula: Callable[[Float[Tensor, " n"]], Float[Tensor, ""]], unit: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
    """Return a function of the samples' weights at weights of 1, and the influences of units of samples.

    Args:
        formula: a differentiable function of float64 weights.
        unit: the unit of each sample, integers from 0.

    Examples:
        >>> x = torch.arange(6, dtype=torch.float64)
        >>> unit = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> value, influence = estimate_weighted(lambda weight: weight @ x / weight.sum(), unit)
        >>> print(f"{value:.2f} {stderr_of_influence(influence):.2f}")
        2.50 1.15
    """
    with torch.inference_mode(False), torch.enable_grad():
        weight = torch.ones(len(unit), dtype=torch.float64, device=unit.device, requires_grad=True)
        value = formula(weight)
        (slope,) = torch.autograd.grad(value, weight)
    return value.detach(), slope.new_zeros(int(unit.max()) + 1).index_add_(0, unit, slope)
