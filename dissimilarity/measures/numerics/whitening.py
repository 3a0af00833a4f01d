"""Whitening from sums, for measures whose value does not depend on how a side is scaled or mixed.

Let W W' be the inverse of Xc'Xc on the space that x spans. The canonical correlations of x and y are then the singular
values of W_x' Xc'Yc W_y, and the regression of y on x is W_x' Xc'Yc. Columns are first scaled to unit norm, which is
exact and removes the effect of a few large dimensions on the condition of Xc'Xc. A Cholesky factor serves if the rank
is full, and an eigendecomposition with a relative cut if it is not.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from dissimilarity.moments.pair import Moments, centered

COLLINEAR = 1e-3
"""Smallest eigenvalue of products of unit columns below which the rounding of float32 products shows in values."""

SURE = 4.0
"""Cholesky alone is trusted if the smallest eigenvalue is at least this multiple of the rank cut."""


@dataclass(frozen=True)
class Whitening:
    """One side's map to uncorrelated coordinates with unit sums of squares.

    Attributes:
        scale: reciprocal norm of each column, 0 for a constant one.
        rank: number of dimensions that the side spans.
        lower: Cholesky factor of the scaled products, if the rank is full.
        basis: otherwise the scaled eigenvectors that whiten the scaled columns, zero beyond the rank.
        drift: carries the derivative: half of W'Xc'Xc W minus its value, since W changes to W (I - drift) with the
            sums. Among all whitenings this one avoids every needless rotation. None if no derivative is needed.
    """

    scale: Float[Tensor, "*pairs p"]
    rank: Float[Tensor, "*pairs"]
    lower: Float[Tensor, "*pairs p p"] | None = None
    basis: Float[Tensor, "*pairs p k"] | None = None
    drift: Float[Tensor, "*pairs k k"] | None = None

    def __call__(self, product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs k q"]:
        """Return W' times a product Xc'Yc; rows beyond the rank are zero."""
        scaled = self.scale[..., None] * product
        if self.lower is not None:
            white = torch.linalg.solve_triangular(self.lower, scaled, upper=False)
        else:
            assert self.basis is not None
            white = self.basis.mT @ scaled
        return white if self.drift is None else white - self.drift @ white

    def root(self, product: Float[Tensor, "*pairs p p"]) -> Float[Tensor, "*pairs p k"]:
        """Return Xc'Xc W: products of the columns with the uncorrelated coordinates."""
        if self.lower is None or self.drift is not None:
            return self(product).mT
        return self.lower * torch.where(self.scale > 0, 1 / self.scale, 0.0)[..., None]

    def following(self, product: Float[Tensor, "*pairs p p"]) -> "Whitening":
        """Return the same whitening, with its derivative in Xc'Xc."""
        if not product.requires_grad:
            return self
        inside = self(self(product).mT)
        return replace(self, drift=(inside - inside.detach()) / 2)


def whitening(
    product: Float[Tensor, "*pairs p p"], raw: Float[Tensor, "*pairs p p"], roundoff: Float[Tensor, "*pairs"]
) -> Whitening:
    """Return the whitening of a side.

    Args:
        product: Xc'Xc.
        raw: x'x as it was summed, whose rounding the product carries.
        roundoff: unit roundoff of the samples.
    """
    scale = _scale(product, raw, roundoff)
    scaled = scale[..., :, None] * product.detach() * scale[..., None, :]
    cut = _cut(product.shape[-1], roundoff.detach())
    lower = _lower(scaled, scale, SURE * cut)
    if lower is not None:
        return Whitening(scale, (scale > 0).sum(-1).double(), lower).following(product)
    values, vectors = torch.linalg.eigh(scaled)
    return _on_basis(scale, values, vectors, values > cut[..., None]).following(product)


def is_nearly_collinear(side: Moments) -> bool:
    """Return whether the columns of a side have a direction along which they hardly vary, from its sums."""
    product = torch.addr(side["xx"], side["x"], side["x"], alpha=-1 / side["n"].item())
    scale = _scale(product, side["xx"], side["eps_x"] / side["n"])
    scaled = product.mul_(scale[:, None]).mul_(scale).float()  # float32 tells eigenvalues of this size in half the time
    return _lower(scaled, scale, scaled.new_tensor(COLLINEAR)) is None


def _scale(
    product: Float[Tensor, "*pairs p p"], raw: Float[Tensor, "*pairs p p"], roundoff: Float[Tensor, "*pairs"]
) -> Float[Tensor, "*pairs p"]:
    """Return the reciprocal norm of each column, 0 for a constant one; arguments of ``whitening``."""
    squares = product.diagonal(dim1=-2, dim2=-1).detach()
    raw_squares = raw.diagonal(dim1=-2, dim2=-1).detach()
    unit = roundoff[..., None].detach()
    varies = (squares > 8 * unit * raw_squares) & (squares > (4 * unit).square() * squares.amax(-1, keepdim=True))
    return torch.where(varies, squares, 1.0).rsqrt() * varies


def _lower(
    scaled: Float[Tensor, "*pairs p p"], scale: Float[Tensor, "*pairs p"], least: Float[Tensor, "*pairs"]
) -> Float[Tensor, "*pairs p p"] | None:
    """Return the Cholesky factor of products of unit columns; None unless all eigenvalues exceed a size."""
    lower, failed = torch.linalg.cholesky_ex(scaled + torch.diag_embed((scale == 0).to(scaled)))
    return None if bool(failed.any()) or not bool((_smallest_eigenvalue(lower) > least).all()) else lower


def leading(product: Float[Tensor, "*pairs p p"], n: Float[Tensor, "*pairs"], share: float) -> Whitening:
    """Return the whitening of a side's leading principal components: the fewest that hold a share of its variance.

    Args:
        product: Xc'Xc.
        n: number of samples.
        share: share of the variance, below 1.
    """
    values, vectors = torch.linalg.eigh(product.detach())
    explained = values.flip(-1).cumsum(-1) / values.sum(-1, keepdim=True)
    is_leading = among_largest(values, (explained < share).sum(-1) + 1)
    variances = values.clamp(min=0)
    noise = (variances[..., :, None] * variances[..., None, :] / n.detach()[..., None, None]).sqrt()
    toward = is_leading[..., :, None] < is_leading[..., None, :]
    turned = turning(product, values, vectors, noise, toward)
    return _on_basis(torch.ones_like(values), values, turned, is_leading).following(product)


def among_largest(values: Float[Tensor, "*pairs k"], count: Num[Tensor, "*pairs"]) -> Bool[Tensor, "*pairs k"]:
    """Return which of ascending values are among the ``count`` largest."""
    return torch.arange(values.shape[-1], device=values.device).flip(-1) < count[..., None]


def turning(
    symmetric: Float[Tensor, "*pairs p p"],
    values: Float[Tensor, "*pairs p"],
    vectors: Float[Tensor, "*pairs p p"],
    noise: Float[Tensor, "*pairs _ _"],
    toward: Bool[Tensor, "*pairs p p"] | None = None,
) -> Float[Tensor, "*pairs p p"]:
    """Return eigenvectors that carry the derivative of how they turn with the matrix, for the standard error.

    Eigenvector i turns by v_j'dA v_i / (l_i - l_j) toward j. That is unbounded where eigenvalues are close, although
    the real turn is bounded. Where eigenvalues are closer than their sampling error, which leaves their order open, the
    derivative is damped: gap / (gap^2 + noise^2) instead of 1 / gap. With the plain derivative the errors of PWCCA were
    two to six times the spread over fresh samples.

    Args:
        symmetric: the matrix.
        values: its eigenvalues.
        vectors: its eigenvectors.
        noise: sampling error of v_j'A v_i.
        toward: (j, i) where the turn of eigenvector i toward j counts; None = everywhere.
    """
    if not symmetric.requires_grad:
        return vectors
    gaps = values[..., None, :] - values[..., :, None]
    slope = gaps / (gaps.square() + noise.square()).clamp(min=torch.finfo(gaps.dtype).tiny)
    slope = slope if toward is None else slope * toward
    inside = vectors.mT @ symmetric @ vectors
    return vectors + vectors @ (slope * (inside - inside.detach()))


def ties(
    values: Float[Tensor, "*pairs p"], counted: Bool[Tensor, "*pairs p"], tolerance: float
) -> Int[Tensor, "*pairs p"] | None:
    """Return the number of each value's group of equal ones; None if all differ.

    Args:
        values: sorted values.
        counted: those that matter; each other is a group of its own.
        tolerance: difference up to which neighbors are equal.

    >>> ties(torch.tensor([0.5, 1.0, 1.0]), torch.tensor([True, True, True]), tolerance=1e-6)
    tensor([0, 1, 1])
    """
    apart = (values.diff(dim=-1).abs() > tolerance) | ~(counted[..., 1:] & counted[..., :-1])
    return None if bool(apart.all()) else torch.nn.functional.pad(apart.cumsum(-1), (1, 0))


def principal_turns(group: Int[Tensor, "*pairs p"], rows: Float[Tensor, "*pairs q p"]) -> Float[Tensor, "*pairs p p"]:
    """Return the rotation of the columns of a matrix, within each group, to principal directions.

    >>> principal_turns(torch.tensor([0, 0]), torch.tensor([[3.0, 3.0]])).abs()
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """
    inside = rows.mT @ rows * (group[..., None, :] == group[..., :, None])
    # Steps between groups that are larger than all eigenvalues keep their order.
    steps = 2 * rows.square().sum((-2, -1))[..., None] * group
    return torch.linalg.eigh(inside + torch.diag_embed(steps)).eigenvectors


def _on_basis(scale: Tensor, values: Tensor, vectors: Tensor, selected: Tensor) -> Whitening:
    """Return the whitening by the selected eigenvectors, the last ones. In a batch their number may differ by pair."""
    width = max(1, int(selected.sum(-1).max()))
    selected = selected[..., -width:]
    lengths = torch.where(selected, values[..., -width:], 1.0).rsqrt() * selected
    return Whitening(scale, selected.sum(-1).double(), basis=vectors[..., -width:] * lengths[..., None, :])


def _cut(width: int, roundoff: Tensor) -> Tensor:
    """Return the size up to which an eigenvalue of products of unit columns may be rounding, of sums or samples."""
    return 8 * width**0.5 * roundoff + 4e-15 * width


def _smallest_eigenvalue(lower: Float[Tensor, "*pairs p p"]) -> Float[Tensor, "*pairs"]:
    """Return the smallest eigenvalue of L L' by inverse iteration, somewhat too large, which ``SURE`` allows for."""
    vector = torch.linspace(1, 2, lower.shape[-1], dtype=lower.dtype, device=lower.device).sin()[:, None]
    vector = vector.expand(*lower.shape[:-1], 1)
    size = lower.new_ones(())
    for _ in range(4):
        vector = torch.cholesky_solve(vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True), lower)
        size = torch.linalg.vector_norm(vector, dim=(-2, -1))
    return 1 / size


def canonical(x: Whitening, y: Whitening, xy: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs k l"]:
    """Return W_x' Xc'Yc W_y, whose singular values are the canonical correlations."""
    return y(x(xy).mT).mT


def both_sides(m: Moments) -> tuple[Whitening, Whitening, Tensor, Tensor]:
    """Return the whitenings of x and y, their canonical matrix, and Xc'Xc."""
    xx, yy, xy = centered(m)
    x, y = whitening(xx, m["xx"], m["eps_x"] / m["n"]), whitening(yy, m["yy"], m["eps_y"] / m["n"])
    return x, y, canonical(x, y, xy), xx


def is_exact(m: Moments) -> bool:
    """Return whether both sides come from float64 samples."""
    return bool((torch.maximum(m["eps_x"], m["eps_y"]) < 1e-10 * m["n"]).all())


def at_most_one(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return correlations of which rounding puts some above 1; these keep their derivative, so that it decides nothing.

    >>> x = torch.tensor([0.5, 1 + 1e-7], requires_grad=True)
    >>> at_most_one(x).sum().backward()
    >>> x.grad.tolist()
    [1.0, 1.0]
    """
    return values - (values - 1).clamp(min=0).detach()


def sum_of_correlations(
    between: Float[Tensor, "*pairs k l"], rank: Float[Tensor, "*pairs"], exact: bool
) -> Float[Tensor, "*pairs"]:
    """Return the sum of the canonical correlations. Those that rounding puts above 1 count as 1.

    Args:
        between: the canonical matrix.
        rank: number of correlations.
        exact: whether correlations below 1e-6 matter. If not, the eigenvalues of the square are twice as fast.
    """
    if exact or between.requires_grad:
        return at_most_one(torch.linalg.svdvals(between)).sum(-1)
    wide = between.shape[-2] < between.shape[-1]
    squares = torch.linalg.eigvalsh(between @ between.mT if wide else between.mT @ between)
    return (squares.clamp(0, 1).sqrt() * among_largest(squares, rank)).sum(-1)
