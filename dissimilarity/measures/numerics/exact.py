"""Exact values at the extremes: equal sides get exactly the best value, small angles no more rounding than needed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dissimilarity.moments.pair import Moments, traces

ROUNDING = 5e-6
"""How far sums of float32 samples may put a cosine beyond 1."""


def same_sides(m: Moments) -> Bool[Tensor, "*pairs"]:
    """Return whether x and y are the same samples.

    If they are, the sums of both sides agree to the last bit. The products of x with y differ from them by the rounding
    of one matrix product, because x'x and x'y are multiplied in blocks of different shapes.
    """
    if m["xx"].shape[-2:] != m["yy"].shape[-2:]:
        return torch.zeros_like(m["n"], dtype=torch.bool)
    equal = (m["x"] == m["y"]).all(-1)
    if not bool(equal.any()):
        return equal  # the usual case, which need not read the larger sums
    equal = equal & (m["xx"] == m["yy"]).flatten(-2).all(-1)
    return equal & ((traces(m["xy"]) - traces(m["xx"])).abs() <= 1e-5 * traces(m["xx"]))


def exact_where_same(m: Moments, value: Float[Tensor, "*pairs"], best: float) -> Float[Tensor, "*pairs"]:
    """Return the value, replaced by the best one with a derivative of zero where both sides are the same samples."""
    return torch.where(same_sides(m), best, value)


def angle(cosine: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    """Return arccos, with cosines within rounding of 1 or -1 taken as exactly that; NaN beyond.

    The derivative there is 0: an angle of 0 is a kink and has no standard error.
    """
    inside = cosine.abs() <= 1 - 1e-12
    # NaN stays NaN.
    ends = torch.where(cosine < 0, 0 * cosine + torch.pi, 0 * cosine)
    ends = torch.where(cosine.abs() > 1 + ROUNDING, torch.nan, ends)
    return torch.where(inside, torch.arccos(torch.where(inside, cosine, 0.0)), ends)
