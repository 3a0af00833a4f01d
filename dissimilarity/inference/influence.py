"""Influences of single samples on a value: its derivative with respect to their weights.

A value is a function of sums over samples, f(m). A sample (x_i, y_i) with weight w_i adds w_i x_i x_i' to ``xx``,
w_i x_i y_i' to ``xy``, and so on, so with the slopes G = df / dm

    d f / d w_i = x_i' G_xx x_i + x_i' G_xy y_i + y_i' G_yy y_i + G_x . x_i + G_a a_i + ...

which is one product of the samples with each matrix of slopes. Summed over the samples of a sequence, it is the
influence of that sequence in the infinitesimal jackknife, and no sums per sequence are needed.
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import with_slopes
from dissimilarity.inference.sequence_weights import of_sequences
from dissimilarity.inference.slopes import Slopes
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.second_pass import SecondPass


def estimate_again(
    formula: Callable[[Moments], Float[Tensor, " pairs"]],
    totals: Moments,
    changed: Callable[[Part], Part] = lambda part: part,
    apart: float = math.inf,
) -> SecondPass[tuple[Float[Tensor, " pairs"], Float[Tensor, "sequences pairs"]]]:
    """Return values of a formula of moments, and the influences of the sequences, by reading the samples again.

    Args:
        formula: a differentiable function of the sums.
        totals: the sums over all samples, float64, with pairs as their leading dimension.
        changed: returns the samples that stand for those of a part.
        apart: the value above which products of samples may be as imprecise as error bars allow.
    """
    value, slopes = with_slopes(formula, totals)
    prepared, fast = Slopes.of(slopes), bool((value > apart).all())

    return SecondPass(
        lambda part: {"influence": weight_slopes(prepared, changed(part))},
        lambda sums: (value, sums["influence"]),
        fast,
    )


def weight_slopes(slopes: Slopes, part: Part) -> Float[Tensor, "n pairs"]:
    """Return the derivative of values with respect to the weight of each sample.

    Args:
        slopes: derivatives with respect to the sums.
        part: the samples.
    """
    total = _plain(slopes, part)
    return total + of_sequences(slopes, part) if slopes.others.keys() & {"u", "v"} else total


def _plain(slopes: Slopes, part: Part) -> Float[Tensor, "n pairs"]:
    """Return the derivative through the sums to which each sample adds whatever the others of its sequence are."""
    a, b = part.x.norms(), part.y.norms()
    scalars = {"a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b}
    weights = {"x": None, "xa": a, "xb": b, "y": None, "ya": a, "yb": b}
    forms = {"xx": part.quadratic_x, "yy": part.quadratic_y, "xy": part.bilinear}
    total = slopes.others["n"].expand(len(a), -1) if "n" in slopes.others else 0.0 * b
    for key, slope in slopes.others.items():
        if key in scalars:
            total = total + scalars[key] * slope
        elif key in weights:
            along = (part.x if key[0] == "x" else part.y).along(slope)
            total = total + (along if weights[key] is None else along * weights[key])
    for key in forms.keys() & slopes.matrices.keys():
        total = total + forms[key](slopes.matrices[key])
    return total


def sample_influence(slopes: Moments, parts: Iterable[Part]) -> Float[Tensor, "samples pairs"]:
    """Return the derivative of values with respect to the weight of every sample, sequence after sequence."""
    prepared = Slopes.of(slopes)
    return torch.cat([weight_slopes(prepared, part) for part in parts])
