"""Orthogonal Procrustes distance, as an angle or squared."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moment_measure import MomentMeasure
from dissimilarity.moments import Moments, centred, traces

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
    """Distance after the best rotation, of centred representations of unit Frobenius norm.

    With c = |Xc'Yc|_* / (|Xc|_F |Yc|_F): ``angular`` is arccos c in [0, pi/2], a metric (Williams et al. 2021);
    ``squared`` is 2 - 2c in [0, 2] (Ding et al. 2021). c itself is the normalised Bures similarity's cosine.

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
        xx, yy, xy = centred(m)
        # In float64: with a few dominant dimensions float32 singular values alone would put equal sides 1e-3 apart.
        # Norms from the diagonals of the same products, so that equal sides give c = 1 to the last digits.
        cosine = torch.linalg.svdvals(xy).sum(-1) / (traces(xx) * traces(yy)).sqrt()
        if self.kind == "squared":
            return 2 - 2 * _at_most_one(cosine)
        return _angle(cosine)


def _at_most_one(cosine: Tensor) -> Tensor:
    """Cauchy-Schwarz bounds the cosine by 1, and what comes within the rounding of the sums is taken for 1."""
    return torch.where(cosine > 1 - 1e-12, 0 * cosine + 1, cosine)


def _angle(cosine: Tensor) -> Tensor:
    """arccos with a derivative of 0 at 1, where the distance has a kink and no standard error."""
    inside = cosine <= 1 - 1e-12
    return torch.where(inside, torch.arccos(torch.where(inside, cosine, 0.0)), 0 * cosine)
