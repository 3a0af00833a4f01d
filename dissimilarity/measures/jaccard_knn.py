"""Jaccard similarity of neighborhoods."""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.base.neighbor_measure import NeighborMeasure


def jaccard_knn(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], k: int = 10) -> Float[Tensor, ""]:
    """Mean Jaccard similarity of the k nearest neighbors in two representations of the same samples.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations.
        k: neighbors of each sample; needs n > k.

    Returns:
        float64 scalar in [0, 1]; 1 = same neighborhoods.
    """
    return JaccardKNN(k, samples=max(1024, k + 1)).of(x, y)


class JaccardKNN(NeighborMeasure):
    """Jaccard similarity of neighborhoods (Wang et al. 2022): mean over i of |N_x(i) & N_y(i)| / |N_x(i) | N_y(i)|.

    N(i) are the k rows of largest cosine with row i, itself excluded; ties are broken by index.

    Args:
        k: neighbors of each sample.
        samples: most rows that are compared.
        seed: which rows.
    """

    formula: ClassVar[str] = "mean over i of |N_x(i) & N_y(i)| / |N_x(i) or N_y(i)|, N as in mutual kNN"
    source: ClassVar[str] = "Wang et al. 2022"

    @property
    def label(self) -> str:
        """``jaccard_knn``, with k where it is not 10."""
        return "jaccard_knn" if self.k == 10 else f"jaccard_knn_{self.k}"

    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Common neighbors over those of either side."""
        return common.double() / (2 * self.k - common)
