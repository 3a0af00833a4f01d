"""Orthogonal Procrustes distance, as an angle or squared."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.influence import estimate_again
from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.fitted_measure import FittedMeasure, halved_moments_of
from dissimilarity.measures.base.moment_measure import Estimate
from dissimilarity.measures.numerics.crossfit import cross_fitted
from dissimilarity.measures.numerics.exact import angle, exact_where_same
from dissimilarity.moments.pair import Moments, centered_cross, centered_squares, moment_side, moments_of
from dissimilarity.moments.products import APART
from dissimilarity.moments.second_pass import SecondPass
from dissimilarity.probe.arguments import choice, flag

Kind = Literal["angular", "squared"]

CROSSFIT_MINIMUM = 4
"""Smallest number of samples whose halves have a variance."""

ROUNDING = 1e-6
"""Largest error of an angle, in radians, for which the nuclear norm is taken from the eigenvalues of a square."""


def procrustes(
    x: ArrayLike, y: ArrayLike, kind: Kind = "angular", crossfit: bool = False, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return the orthogonal Procrustes distance of two representations of the same samples; see ``Procrustes``.

    arccos c or 2 - 2c with c = |Xc'Yc|_* / (|Xc|_F |Yc|_F) (Williams et al. 2021; Ding et al. 2021). Symmetric;
    invariant to orthogonal maps, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list. The narrower side counts as padded with
            zeros.
        y: the same samples in the other representation, (n, q).
        kind: ``angular`` (radians, in [0, pi / 2], a metric) or ``squared`` (in [0, 2]).
        crossfit: whether to score a rotation on another half of the units than it is fitted to, both ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar; 0 = same up to rotation, scale and translation. Falls with p / n, cross-fitted it rises.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0]]
        >>> turned = [[-b, a] for a, b in x]
        >>> y = [[2.0], [1.5], [3.0], [0.5]]
        >>> print(f"{procrustes(x, turned):.4f} {procrustes(x, y):.4f}")
        0.0000 0.7369
    """
    choice("kind", kind, get_args(Kind))
    return procrustes_from_moments(procrustes_moments_of(x, y, crossfit, units), kind, crossfit)


def procrustes_moments_of(x: ArrayLike, y: ArrayLike, crossfit: bool, units: ArrayLike | None) -> Moments:
    """Return the moments of two sides, with sums over halves where these are needed."""
    if not flag("crossfit", crossfit):
        return moments_of(*paired_samples(x, y, Procrustes.minimum_samples))
    x, y = paired_samples(x, y, CROSSFIT_MINIMUM)
    return halved_moments_of(moment_side(x.double(), True), moment_side(y.double(), True), units)


def procrustes_from_moments(m: Moments, kind: Kind, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return the distance from sums."""
    cosine = cross_fitted(m, _best_rotation, _rotated_cosine) if crossfit else procrustes_cosine(m)
    return exact_where_same(m, _distance(cosine, kind), Procrustes.identical)


def procrustes_cosine(m: Moments) -> Float[Tensor, "*pairs"]:
    """Return |Xc'Yc|_* / (|Xc|_F |Yc|_F) from sums."""
    xy, (xx, yy) = centered_cross(m), centered_squares(m)
    # In float64: with a few dominant dimensions float32 singular values alone would put equal sides 1e-3 apart.
    from_float32 = bool((torch.minimum(m["eps_x"], m["eps_y"]) > 1e-12 * m["n"]).all())
    norms = (xx * yy).sqrt()
    return _cosine_from_float32(xy, norms) if from_float32 else _cosine(xy, norms)


def _best_rotation(m: Moments) -> Float[Tensor, "*pairs p q"]:
    """Return the polar factor of Xc'Yc, zero on what the samples do not determine."""
    left, values, right = torch.linalg.svd(centered_cross(m), full_matrices=False)
    roundoff = torch.maximum(m["eps_x"], m["eps_y"]) / m["n"]
    # Products round in proportion to the columns that they are of, so a few large columns hide no other direction.
    x, y = (m[name].diagonal(dim1=-2, dim2=-1).clamp(min=0) for name in ("xx", "yy"))
    sizes = [(x[..., None] * left.square()).sum(-2), (right.square() * y[..., None, :]).sum(-1)]
    rounding = 2 * max(m["xy"].shape[-2:]) ** 0.5 * roundoff[..., None] * (sizes[0] * sizes[1]).sqrt()
    is_determined = values > rounding + 4e-15 * max(m["xy"].shape[-2:]) * values[..., :1]
    return (left * is_determined[..., None, :]) @ right


def _rotated_cosine(rotation: Float[Tensor, "*pairs p q"], m: Moments) -> Float[Tensor, "*pairs"]:
    """Return tr(R' Xc'Yc) / (|Xc|_F |Yc|_F)."""
    xx, yy = centered_squares(m)
    return (rotation * centered_cross(m)).sum((-2, -1)) / (xx * yy).sqrt()


class Procrustes(FittedMeasure):
    """Distance after the best rotation, of centered representations with unit Frobenius norm.

    With c = |Xc'Yc|_* / (|Xc|_F |Yc|_F): ``angular`` is arccos c in [0, pi/2], a metric (Williams et al. 2021);
    ``squared`` is 2 - 2c in [0, 2] (Ding et al. 2021). c itself is the normalized Bures similarity.

    c is accurate to 1e-6 from float32 samples and to 1e-12 from float64 samples. An angle t magnifies the error by
    1 / t. From float32 samples it is accurate to 1e-6 for models that are well apart, and has up to 1e-3 of rounding
    near zero (none between equal inputs). From float64 samples, angles below 2e-6 count as zero.

    The rotation is fitted to the samples that it is scored on, so c is too large by about d / n. With ``crossfit`` it
    is fitted to one half of the units and scored on the other: c is the mean of tr(R' Xc'Yc) / (|Xc|_F |Yc|_F) over
    both ways, too small rather than too large, and from -1 to 1.

    Args:
        kind: ``angular`` or ``squared``.
        crossfit: whether to score the rotation on another half than it is fitted to.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 2.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {
        "procrustes": "Procrustes angle (rad)",
        "procrustes_squared": "squared Procrustes distance",
    }
    formula: ClassVar[str] = "arccos c or 2 - 2c, c = |Xc'Yc|_* / (|Xc|_F |Yc|_F)"
    cost: ClassVar[str] = "n p q, one SVD of p x q"
    source: ClassVar[str] = "angular: Williams et al. 2021; squared: Ding et al. 2021"

    def __init__(self, kind: Kind = "angular", crossfit: bool = False) -> None:
        super().__init__(crossfit)
        choice("kind", kind, get_args(Kind))
        self.kind: Kind = kind
        self.is_metric = kind == "angular" and not crossfit
        self.bounds = (0.0, (1 + crossfit) * (torch.pi / 2 if kind == "angular" else 2.0))
        self.minimum_samples = CROSSFIT_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``procrustes`` or ``procrustes_squared``, with ``_crossfit`` if it is."""
        return self.with_suffix("procrustes" if self.kind == "angular" else "procrustes_squared")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the distance from sums."""
        return procrustes_from_moments(m, self.kind, self.crossfit)

    def estimate_again(self, totals: Moments, x: Sequence[Any], y: Sequence[Any]) -> SecondPass[Estimate]:
        """Return the value and the influences of the sequences; from fast products if all sides are well apart."""
        apart = torch.inf if self.crossfit else _distance(torch.tensor(APART), self.kind).item()
        return estimate_again(self.from_moments, totals, apart=apart)


def _distance(cosine: Float[Tensor, "*pairs"], kind: Kind) -> Float[Tensor, "*pairs"]:
    return 2 - 2 * cosine if kind == "squared" else angle(cosine)


def _cosine(xy: Float[Tensor, "*pairs p q"], norms: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    return torch.linalg.svdvals(xy).sum(-1) / norms


def _cosine_from_float32(xy: Float[Tensor, "*pairs p q"], norms: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs"]:
    """Return the cosine of float32 samples, twice as fast where that is precise.

    The nuclear norm comes from the eigenvalues of the smaller square. Rounding moves these by e = 1e-15 of the largest
    one, so a singular value s by about e / s, and by no more than sqrt e. If these errors add up to more than
    ``ROUNDING`` in the angle, because a few dimensions dominate or the sides are nearly equal, it comes from the
    singular values of the product itself. The derivative is the polar factor U V' of the dimensions above rounding.
    """
    tall = xy if xy.shape[-1] <= xy.shape[-2] else xy.mT
    fixed = tall.detach()
    values, vectors = _eigh(fixed.mT @ fixed, with_vectors=xy.requires_grad)
    singular = values.clamp(min=0).sqrt()
    cosine = singular.sum(-1) / norms
    moved = 1e-15 * values[..., -1:]
    rounding = torch.minimum(moved / singular, moved.sqrt()).sum(-1) / norms
    if not bool((rounding < ROUNDING * (1 - cosine.square()).clamp(min=0).sqrt()).all()):
        return _cosine(xy, norms)
    if vectors is None:
        return cosine
    polar = (torch.nn.functional.normalize(fixed @ vectors, dim=-2) * (values > moved)[..., None, :]) @ vectors.mT
    slope = (polar * tall).sum((-2, -1))
    return (singular.sum(-1) + slope - slope.detach()) / norms


def _eigh(square: Float[Tensor, "*pairs p p"], with_vectors: bool) -> tuple[Tensor, Tensor | None]:
    return tuple(torch.linalg.eigh(square)) if with_vectors else (torch.linalg.eigvalsh(square), None)
