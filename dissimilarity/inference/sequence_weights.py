"""What a sample's weight does to the sums over whole sequences, which other samples of its sequence share.

With weights w_i, a sequence has M_s = sum w_i x_i y_i', a_s = sum w_i x_i, b_s = sum w_i y_i and n_s = sum w_i. With
the products of its samples with each other, K_s = X_s X_s' and L_s = Y_s Y_s', and k = K_s 1, l = L_s 1,

    d |M_s|^2 / d w_i = 2 (K_s * L_s) 1,    d a_s'M_s b_s / d w_i = K_s l + k l + L_s k,
    d g'M_s b_s / d w_i = (g . x_i) l_i + L_s X_s g,    d a_s'M_s g / d w_i = (g . y_i) k_i + K_s Y_s g.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.slopes import Slopes
from dissimilarity.moments.paired_samples import Part
from dissimilarity.moments.stack import Stack

OTHERS = {"xk": ("x", "x"), "yl": ("y", "y"), "xl": ("x", "y"), "yk": ("y", "x")}
"""Sums of vectors -> the side of the vectors, and the side of the weights."""
PRODUCTS = {"gg": ("x", "x"), "hh": ("y", "y"), "gh": ("x", "y"), "kk": ("x", "x"), "ll": ("y", "y"), "kl": ("x", "y")}
"""Sums of numbers -> the sides of their factors."""


def of_sequences(slopes: Slopes, part: Part) -> Float[Tensor, "n pairs"]:
    """Return the derivative of values with respect to each sample's weight, through the sums over sequences.

    Args:
        slopes: derivatives with respect to the sums of ``moments.sequences``; others are left out.
        part: the samples.
    """
    grams = {"x": part.x.grams(part.members), "y": part.y.grams(part.members)}
    sums = {side: gram.sum(-1) for side, gram in grams.items()}
    along = {"x": part.x.along, "y": part.y.along}
    quadratic = {"xx": part.quadratic_x, "yy": part.quadratic_y, "xy": part.bilinear}
    per_mean = 1 / (part.members.mean or float(part.members.lengths[0]))
    others = slopes.others
    relative = _own_vectors(others["u"], part, part.x) + _own_vectors(others["v"], part, part.y)
    if "lengths" in others:
        relative = relative + per_mean * others["lengths"].mT[part.sequence].to(relative)
    for key, matrices in slopes.matrices.items():
        if key[2:].isdigit():
            change = quadratic[key[:2]](matrices)
            relative = relative + _powers(part, int(key[2:]), change, _in_rows(part, change).sum(-1), per_mean)
    for key, slope in others.items():
        kind, e = key[:2], int(key[2:]) if key[2:].isdigit() else -1
        if e < 0:
            continue
        if kind in OTHERS:
            vectors, weights = OTHERS[kind]
            projections = _in_rows(part, along[vectors](slope))
            spread = (grams[weights] @ projections[..., None])[..., 0]
            change = _in_samples(part, projections * sums[weights] + spread)
            total = (projections * sums[weights]).sum(-1)
        else:
            first, second = (PRODUCTS[kind][index] for index in (0, 1))
            change, total = _product(kind, grams[first], grams[second])
            change, total = _in_samples(part, change) * slope, total * slope
        relative = relative + _powers(part, e, change, total, per_mean)
    return relative


def _product(kind: str, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of |M_s|^2 or of a_s'M_s b_s in the weights of a sequence's samples, and their value."""
    if kind in ("gg", "hh", "gh"):
        rows = (first * second).sum(-1)
        return 2 * rows, rows.sum(-1)
    k, l = first.sum(-1), second.sum(-1)  # noqa: E741
    change = (first @ l[..., None])[..., 0] + k * l + (second @ k[..., None])[..., 0]
    return change, (k * l).sum(-1)


def _powers(part: Part, e: int, change: Tensor, total: Tensor, per_mean: float) -> Float[Tensor, "n pairs"]:
    """Return the derivative of n_s^e times a term of each sequence.

    Args:
        part: the samples.
        e: the power.
        change: the derivative of the term, (n, pairs).
        total: the term, (sequences, pairs).
        per_mean: one over the mean length.
    """
    lengths = part.members.lengths.to(change) * per_mean
    own = part.sequence - part.members.first
    result = lengths[own, None] ** e * change
    return result + e * lengths[own, None] ** (e - 1) * per_mean * total[own] if e else result


def _own_vectors(slope: Float[Tensor, "pairs sequences d"], part: Part, side: Stack) -> Float[Tensor, "n pairs"]:
    """Return the product of each sample with the slope of its own sequence."""
    values = torch.stack(side.samples, 1)
    return (values.to(slope.device).double() * slope[:, part.sequence].movedim(0, 1)).sum(-1)


def _in_rows(part: Part, values: Float[Tensor, "n pairs"]) -> Float[Tensor, "sequences pairs length"]:
    return part.members.rows(values[None]).movedim(1, 2)


def _in_samples(part: Part, rows: Float[Tensor, "sequences pairs length"]) -> Float[Tensor, "n pairs"]:
    return part.members.samples(rows.movedim(1, 2), 1)[0]
