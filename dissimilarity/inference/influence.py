"""Influences of single samples on a value: its derivative with respect to their weights.

A value is a function of sums over samples, f(m). A sample (x_i, y_i) with weight w_i adds w_i x_i x_i' to ``xx``,
w_i x_i y_i' to ``xy``, and so on, so with the slopes G = df / dm

    d f / d w_i = x_i' G_xx x_i + x_i' G_xy y_i + y_i' G_yy y_i + G_x . x_i + G_a a_i + ...

which is one product of the samples with each matrix of slopes. Summed over the samples of a sequence, it is the
influence of that sequence in the infinitesimal jackknife, and no sums per sequence are needed.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import with_slopes
from dissimilarity.inference.sequence_weights import of_sequences
from dissimilarity.moments.bilinear import Matrices
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.second_pass import SecondPass

PLAIN = {"n", "x", "y", "xx", "yy", "xy", "a", "b", "aa", "bb", "ab", "xa", "xb", "ya", "yb"}
"""Sums to which each sample adds whatever the others of its sequence are."""

PRODUCTS = {"xx", "yy", "xy"}
"""Sums that are matrices, also with powers of the lengths of sequences."""

Slopes = Mapping[str, Tensor | Matrices]
"""Derivatives with respect to sums."""


def estimate_again(
    formula: Callable[[Moments], Float[Tensor, " pairs"]],
    totals: Moments,
    changed: Callable[[Part], Part] = lambda part: part,
) -> SecondPass[tuple[Float[Tensor, " pairs"], Float[Tensor, "sequences pairs"]]]:
    """Return values of a formula of moments, and the influences of the sequences, by reading the samples again.

    Args:
        formula: a differentiable function of the sums.
        totals: the sums over all samples, float64, with pairs as their leading dimension.
        changed: returns the samples that stand for those of a part.
    """
    value, slopes = with_slopes(formula, totals)
    prepared = with_matrices(slopes)
    return SecondPass(
        lambda part: {"influence": weight_slopes(prepared, changed(part))}, lambda sums: (value, sums["influence"])
    )


def with_matrices(slopes: Moments) -> Slopes:
    """Return slopes with those of products prepared for products with many samples."""
    return {key: Matrices(slope) if key[:2] in PRODUCTS else slope for key, slope in slopes.items()}


def weight_slopes(slopes: Slopes, part: Part) -> Float[Tensor, "n pairs"]:
    """Return the derivative of values with respect to the weight of each sample.

    Args:
        slopes: derivatives with respect to the sums of ``moments.pair``, with pairs as their leading dimension, from
            ``with_matrices``.
        part: the samples.
    """
    if any(key in slopes for key in ("u", "v")):
        return weight_slopes({key: slopes[key] for key in PLAIN & slopes.keys()}, part) + of_sequences(slopes, part)
    assert slopes.keys() <= PLAIN, slopes.keys() - PLAIN
    a, b = part.x.norms(), part.y.norms()
    scalars = {"a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b}
    weights = {"x": None, "xa": a, "xb": b, "y": None, "ya": a, "yb": b}
    matrices = {"xx": part.quadratic_x, "yy": part.quadratic_y, "xy": part.bilinear}
    total = slopes["n"].expand(len(a), -1) if "n" in slopes else 0.0 * b
    for key, slope in slopes.items():
        if key in scalars:
            total = total + scalars[key] * slope
        elif key in weights:
            along = (part.x if key[0] == "x" else part.y).along(slope)
            total = total + (along if weights[key] is None else along * weights[key])
        elif key in matrices:
            total = total + matrices[key](slope)
    return total


def sample_influence(slopes: Moments, parts: Iterable[Part]) -> Float[Tensor, "samples pairs"]:
    """Return the derivative of values with respect to the weight of every sample, sequence after sequence."""
    prepared = with_matrices(slopes)
    return torch.cat([weight_slopes(prepared, part) for part in parts])
