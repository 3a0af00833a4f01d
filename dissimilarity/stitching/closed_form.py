"""Stitches in closed form, from sums over samples: least squares with a ridge, rotations, reduced rank.

With centered x (n, p) in front and y (n, q) in the back, S = x'x, C = x'y, all in float64:

| kind | solution |
| --- | --- |
| `scale_shift` | s_j = C_jj / S_jj |
| `orthogonal` | W = U V', C = U D V' (Schonemann 1966); unequal widths: the thin factors |
| `affine` | W = (S + l I)^-1 C |
| `low_rank` | A B = W P P', P the leading eigenvectors of C' (S + l I)^-1 C (Izenman 1975), W and l as in `affine` |
| `affine_ln` | W as in `affine`, then a LayerNorm with y's mean and spread: a start for training, not a minimum |

and b = mean(y) - mean(x) W. The ridge l is a share of the mean eigenvalue of S. It is selected from `RIDGES` by the
squared error on held-out samples; one eigendecomposition of S serves all of them. Ridges below the rounding error of
the smallest eigenvalues are not tried.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moments.pair import Moments
from dissimilarity.stitching.maps import Affine, AffineLN, Fitted, Identity, Kind, LowRank, Orthogonal, ScaleShift

RIDGES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ROUNDING = 4.0
"""An eigenvalue of up to this many roundoffs may be rounding error. Products of 4096 samples of width 64 to 512 had 2.
"""

WITH_RIDGE = ("affine", "low_rank", "affine_ln")


@dataclass(frozen=True)
class Centered:
    """Means and centered sums of products of one pair of sites.

    Attributes:
        x: the mean of x, (p,), with its offset.
        y: the mean of y, (q,), with its offset.
        xx: S.
        xy: C.
        roundoff: relative rounding of the sums, plus the square of the rounding of x, which acts as noise.
    """

    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    roundoff: float


def centered_sums(m: Moments) -> Centered:
    """Return centered sums from the sums `n, x, y, xx, xy, eps_x` about offsets `offset_x, offset_y`."""
    x, y = m["x"] / m["n"], m["y"] / m["n"]
    return Centered(
        m["offset_x"] + x,
        m["offset_y"] + y,
        m["xx"] - torch.outer(m["x"], x),
        m["xy"] - torch.outer(m["x"], y),
        float(m["eps_x"] / m["n"]),
    )


def solve(
    kind: Kind,
    fit: Moments,
    choose: Moments,
    rank: int | None,
    together: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Fitted:
    """Return the map of a kind, from sums over the samples to fit and sums over the samples that select the ridge.

    Args:
        kind: kind of map.
        fit: sums over the samples to fit.
        choose: sums over the samples that select the ridge, about the same offsets.
        rank: rank of `low_rank`.
        together: whether to fit the map on both once the ridge is selected.
        dtype: precision of the map's parameters.
    """
    if kind == "identity":
        return Fitted(Identity())
    ridge, note = choose_ridge(fit, choose) if kind in WITH_RIDGE else (None, "")
    sums = {key: value if key.startswith("offset") else value + choose[key] for key, value in fit.items()}
    sums = sums if together else fit
    c = centered_sums(sums)
    if kind == "scale_shift":
        spread, common = c.xx.diagonal(), c.xy.diagonal()
        scale = torch.where(spread > 0, common / spread, 0.0)
        return Fitted(ScaleShift(scale.to(dtype), (c.y - c.x * scale).to(dtype)), note=note)
    if kind == "orthogonal":
        weight = rotation(c.xy)
        return Fitted(Orthogonal(weight.to(dtype), (c.y - c.x @ weight).to(dtype)), note=note)
    assert ridge is not None
    weight = least_squares(c.xx, c.xy, ridge)
    if kind == "low_rank":
        assert rank is not None
        into, out = reduced_rank(c.xy, weight, rank)
        return Fitted(LowRank(into.to(dtype), out.to(dtype), (c.y - c.x @ into @ out).to(dtype)), ridge, note=note)
    bias = (c.y - c.x @ weight).to(dtype)
    if kind == "affine":
        return Fitted(Affine(weight.to(dtype), bias), ridge, note=note)
    scale = (sums["spread"] / sums["n"]).sqrt().expand_as(c.y)
    shift = c.y.mean().expand_as(c.y)
    return Fitted(AffineLN(weight.to(dtype), bias, scale.to(dtype).clone(), shift.to(dtype).clone()), ridge, note=note)


def choose_ridge(fit: Moments, choose: Moments) -> tuple[float, str]:
    """Return the ridge from `RIDGES` with the least squared error on held-out samples, and a note on the covariance."""
    c = centered_sums(fit)
    values, vectors = torch.linalg.eigh(c.xx)
    mean = float(values.mean())
    if mean <= 0:
        return 1.0, "the front activation does not vary"
    # Rounding error of an eigenvalue: of products of columns of sizes S_ii and S_jj, with random signs.
    noise = ROUNDING * c.roundoff * (vectors.square() * c.xx.diagonal()[:, None]).sum(0)
    values = values.clamp(min=0)
    regular = int((values > noise).sum())
    candidates = [ridge for ridge in RIDGES if bool((values + ridge * mean > noise).all())] or [1.0]
    # Held-out sums about the means of the fit.
    n, dx, dy = choose["n"], fit["x"] / fit["n"], fit["y"] / fit["n"]
    x, y = choose["x"] - n * dx, choose["y"] - n * dy
    xx = choose["xx"] - torch.outer(choose["x"], dx) - torch.outer(dx, x)
    xy = choose["xy"] - torch.outer(choose["x"], dy) - torch.outer(dx, y)
    covariance, fitted, target = vectors.T @ xx @ vectors, vectors.T @ c.xy, vectors.T @ xy
    quadratic, linear = covariance * (fitted @ fitted.T), (fitted * target).sum(1)
    errors = []
    for ridge in candidates:
        shrunk = 1 / (values + ridge * mean)
        errors.append(float(shrunk @ quadratic @ shrunk - 2 * shrunk @ linear))
    best = candidates[min(range(len(candidates)), key=errors.__getitem__)]
    singular = f"singular covariance, rank {regular} of {len(values)}: ridge {best:g} of the mean eigenvalue"
    return best, "" if regular == len(values) else singular


def least_squares(xx: Float[Tensor, "p p"], xy: Float[Tensor, "p q"], ridge: float) -> Float[Tensor, "p q"]:
    """Return (S + l I)^-1 C with S = xx, C = xy and l = ridge times the mean eigenvalue of S; zero where S is zero."""
    level = ridge * xx.diagonal().mean()
    factor, failed = torch.linalg.cholesky_ex(xx + level * torch.eye(len(xx), dtype=xx.dtype, device=xx.device))
    if not bool(failed):
        return torch.cholesky_solve(xy, factor)
    values, vectors = torch.linalg.eigh(xx)
    values = values.clamp(min=0) + level
    inverse = torch.where(values > values[-1] * 1e-15, 1 / values, 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ xy))


def rotation(xy: Float[Tensor, "p q"]) -> Float[Tensor, "p q"]:
    """Return the orthogonal W that maximizes tr(W'C) for C = xy: U V' of its thin singular value decomposition."""
    u, _, vh = torch.linalg.svd(xy, full_matrices=False)
    return u @ vh


def reduced_rank(
    xy: Float[Tensor, "p q"], weight: Float[Tensor, "p q"], rank: int
) -> tuple[Float[Tensor, "p r"], Float[Tensor, "r q"]]:
    """Return the factors of W P P', P the leading eigenvectors of C'W, where W = (S + l I)^-1 C and C = xy."""
    explained = xy.T @ weight
    vectors = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:]
    return weight @ vectors, vectors.T.contiguous()
