"""Orthogonal Procrustes distance, as an angle or squared."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import angle, exact_where_same
from dissimilarity.moments.pair import Moments, centered_cross, centered_squares

Kind = Literal["angular", "squared"]


def procrustes(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], kind: Kind = "angular") -> Float[Tensor, ""]:
    """Orthogonal Procrustes distance of two representations of the same samples; see ``Procrustes``.

    Args:
        x, y: rows are samples; widths may differ (the narrower side counts as padded with zeros).
        kind: ``angular`` (radians) or ``squared``.

    Returns:
        float64 scalar; 0 = same up to rotation, scale and translation.
    """
    return Procrustes(kind).of(x, y)


class Procrustes(MomentMeasure):
    """Distance after the best rotation, of centered representations of unit Frobenius norm.

    With c = |Xc'Yc|_* / (|Xc|_F |Yc|_F): ``angular`` is arccos c in [0, pi/2], a metric (Williams et al. 2021);
    ``squared`` is 2 - 2c in [0, 2] (Ding et al. 2021). c itself is the normalized Bures similarity's cosine.

    c is good to 1e-6 from float32 rows and to 1e-12 from float64 rows. An angle t magnifies that by 1 / t, so from
    float32 rows it is good to 1e-6 for models well apart, and up to 1e-3 of rounding is left near zero (none between
    equal inputs); from float64 rows angles below 2e-6 are taken for zero.

    Args:
        kind: ``angular`` or ``squared``.
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
    formula: ClassVar[str] = "arccos c or 2 - 2c, c = |Xc'Yc|_* / (|Xc|_F |Yc|_F)"
    cost: ClassVar[str] = "n p q, one SVD of p x q"
    source: ClassVar[str] = "angular: Williams et al. 2021; squared: Ding et al. 2021"

    def __init__(self, kind: Kind = "angular") -> None:
        super().__init__()
        if kind not in ("angular", "squared"):
            raise ValueError(f"expected kind angular or squared, found {kind!r}")
        self.kind = kind
        self.is_metric = kind == "angular"
        self.bounds = (0.0, torch.pi / 2 if kind == "angular" else 2.0)

    @property
    def label(self) -> str:
        """``procrustes`` or ``procrustes_squared``."""
        return "procrustes" if self.kind == "angular" else "procrustes_squared"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The distance from sums; see the class."""
        xy, (xx, yy) = centered_cross(m), centered_squares(m)
        # In float64: with a few dominant dimensions float32 singular values alone would put equal sides 1e-3 apart.
        short = bool((torch.minimum(m["eps_x"], m["eps_y"]) > 1e-12 * m["n"]).all())
        cosine = (_nuclear_norm_of_short if short else _nuclear_norm)(xy) / (xx * yy).sqrt()
        value = 2 - 2 * cosine if self.kind == "squared" else angle(cosine)
        return exact_where_same(m, value, self.identical)


def _nuclear_norm(xy: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    return torch.linalg.svdvals(xy).sum(-1)


def _nuclear_norm_of_short(xy: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs"]:
    """The same for products of float32 rows, in a third of the time, from the eigenvalues of the smaller square.

    Squaring costs the digits of singular values below 1e-7 of the largest; they are left out, and products of float32
    rows do not hold them either. The derivative is the polar factor U V', in float32: it serves error bars.
    """
    tall = xy if xy.shape[-1] <= xy.shape[-2] else xy.mT
    fixed = tall.detach()
    values, vectors = _eigh(fixed.mT @ fixed, with_vectors=xy.requires_grad)
    kept = values > 1e-14 * values[..., -1:]
    singular = torch.where(kept, torch.where(kept, values, 1.0).sqrt(), 0.0)
    norm = singular.sum(-1)
    if vectors is None:
        return norm
    v = vectors.float()
    reciprocal = torch.where(kept, 1 / torch.where(kept, singular, 1.0), 0.0).float()
    polar = (fixed.float() @ (v * reciprocal[..., None, :])) @ v.mT
    slope = (polar * tall).sum((-2, -1))
    return norm + slope - slope.detach()


def _eigh(square: Float[Tensor, "*pairs p p"], with_vectors: bool) -> tuple[Tensor, Tensor | None]:
    return tuple(torch.linalg.eigh(square)) if with_vectors else (torch.linalg.eigvalsh(square), None)
