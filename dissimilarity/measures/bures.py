"""Normalized Bures similarity: the cosine of the Procrustes angle."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.procrustes import Procrustes, procrustes_from_moments
from dissimilarity.moments.pair import Moments, moments_of


def bures(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return the normalized Bures similarity of two representations of the same samples; see ``Bures``.

    |Xc'Yc|_* / (|Xc|_F |Yc|_F) (Muzellec & Cuturi 2018; Harvey et al. 2024). Symmetric; invariant to orthogonal maps,
    isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list.
        y: the same samples in the other representation, (n, q).

    Returns:
        float64 scalar in [0, 1]; 1 = same up to rotation, scale and translation.

    Example:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0]]
        >>> y = [[2.0], [1.5], [3.0], [0.5]]
        >>> print(f"{bures(x, x):.4f} {bures(x, y):.4f}")
        1.0000 0.7405
    """
    return bures_from_moments(moments_of(*paired_samples(x, y, Bures.minimum_samples)))


def bures_from_moments(m: Moments) -> Float[Tensor, "*pairs"]:
    """Return the cosine from sums."""
    return exact_where_same(m, 1 - procrustes_from_moments(m, "squared") / 2, Bures.identical)


class Bures(MomentMeasure):
    """Normalized Bures similarity (Muzellec & Cuturi 2018; Harvey et al. 2024), the fidelity of two kernels.

    |K^1/2 L^1/2|_* / sqrt(tr K tr L) with K = Xc Xc', L = Yc Yc'. It equals |Xc'Yc|_* / (|Xc|_F |Yc|_F), the cosine of
    the Procrustes angle, and is computed in that form.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = Procrustes.invariant_to
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "|K^1/2 L^1/2|_* / sqrt(tr K tr L), K = Xc Xc', L = Yc Yc'"
    cost: ClassVar[str] = Procrustes.cost
    source: ClassVar[str] = "Muzellec & Cuturi 2018; Harvey et al. 2024"

    @property
    def label(self) -> str:
        """``bures``."""
        return "bures"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the cosine from sums."""
        return bures_from_moments(m)
