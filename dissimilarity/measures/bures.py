"""Normalized Bures similarity: the cosine of the Procrustes angle."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.fitted_measure import FittedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.procrustes import (
    CROSSFIT_MINIMUM,
    Procrustes,
    procrustes_from_moments,
    procrustes_moments_of,
)
from dissimilarity.moments.pair import Moments


def bures(x: ArrayLike, y: ArrayLike, crossfit: bool = False, units: ArrayLike | None = None) -> Float[Tensor, ""]:
    """Return the normalized Bures similarity of two representations of the same samples; see ``Bures``.

    |Xc'Yc|_* / (|Xc|_F |Yc|_F) (Muzellec & Cuturi 2018; Harvey et al. 2024). Symmetric; invariant to orthogonal maps,
    isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).
        crossfit: whether to score a rotation on another half of the units than it is fitted to, both ways.
        units: the sequence of each sample; alternate sequences form the halves. None = each sample is independent.

    Returns:
        float64 scalar in [0, 1], cross-fitted in [-1, 1]; 1 = same up to rotation, scale and translation. Rises with
        p / n, cross-fitted it falls.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5]]
        >>> print(f"{bures(x, x):.4f} {bures(x, y):.4f}")
        1.0000 0.7405
    """
    return bures_from_moments(procrustes_moments_of(x, y, crossfit, units), crossfit)


def bures_from_moments(m: Moments, crossfit: bool = False) -> Float[Tensor, "*pairs"]:
    """Return the cosine from sums."""
    return exact_where_same(m, 1 - procrustes_from_moments(m, "squared", crossfit) / 2, Bures.identical)


class Bures(FittedMeasure):
    """Normalized Bures similarity (Muzellec & Cuturi 2018; Harvey et al. 2024), the fidelity of two kernels.

    |K^1/2 L^1/2|_* / sqrt(tr K tr L) with K = Xc Xc', L = Yc Yc'. It equals |Xc'Yc|_* / (|Xc|_F |Yc|_F), the cosine of
    the Procrustes angle, and is computed in that form. ``Procrustes`` says what ``crossfit`` does to it.

    Args:
        crossfit: whether to score the rotation on another half than it is fitted to.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = Procrustes.invariant_to
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    titles: ClassVar[Mapping[str, str]] = {"bures": "Bures similarity"}
    formula: ClassVar[str] = "|K^1/2 L^1/2|_* / sqrt(tr K tr L), K = Xc Xc', L = Yc Yc'"
    cost: ClassVar[str] = Procrustes.cost
    source: ClassVar[str] = "Muzellec & Cuturi 2018; Harvey et al. 2024"

    def __init__(self, crossfit: bool = False) -> None:
        super().__init__(crossfit)
        self.bounds = (-1.0 if crossfit else 0.0, 1.0)
        self.minimum_samples = CROSSFIT_MINIMUM if crossfit else 2

    @property
    def label(self) -> str:
        """``bures`` or ``bures_crossfit``."""
        return self.with_suffix("bures")

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the cosine from sums."""
        return bures_from_moments(m, self.crossfit)
