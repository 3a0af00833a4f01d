"""Normalized Bures similarity: the cosine of the Procrustes angle."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.moments.pair import Moments


def bures(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
    """Normalized Bures similarity of two representations of the same samples; see ``Bures``.

    Args:
        x, y: rows are samples; widths may differ.

    Returns:
        float64 scalar in [0, 1]; 1 = same up to rotation, scale and translation.
    """
    return Bures().of(x, y)


class Bures(MomentMeasure):
    """Normalized Bures similarity (Muzellec & Cuturi 2018; Harvey et al. 2024), the fidelity of two kernels.

    |K^1/2 L^1/2|_* / sqrt(tr K tr L) with K = Xc Xc', L = Yc Yc'. It equals |Xc'Yc|_* / (|Xc|_F |Yc|_F), the cosine of
    the Procrustes angle, and is computed so.
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

    def __init__(self) -> None:
        super().__init__()
        self._distance = Procrustes("squared")

    @property
    def label(self) -> str:
        """``bures``."""
        return "bures"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The cosine from sums; see the class."""
        return exact_where_same(m, 1 - self._distance.from_moments(m) / 2, self.identical)
