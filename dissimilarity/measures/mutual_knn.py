"""Mutual k nearest neighbors."""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.base.neighbor_measure import NeighborMeasure


def mutual_knn(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], k: int = 10) -> Float[Tensor, ""]:
    """Mean share of the k nearest neighbors that two representations of the same samples have in common.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations.
        k: neighbors of each sample; needs n > k.

    Returns:
        float64 scalar in [0, 1]; 1 = same neighborhoods, k / (n - 1) by chance.
    """
    return MutualKNN(k, samples=max(1024, k + 1)).of(x, y)


class MutualKNN(NeighborMeasure):
    """Mutual k nearest neighbors (Huh et al. 2024, without their clamping): mean over i of |N_x(i) & N_y(i)| / k.

    N(i) are the k rows of largest cosine with row i, itself excluded; ties are broken by index. Chance is k / (n - 1).

    Args:
        k: neighbors of each sample.
        samples: most rows that are compared.
        seed: which rows.
    """

    formula: ClassVar[str] = "mean over i of |N_x(i) & N_y(i)| / k, N(i) the k rows of largest cosine with row i"
    source: ClassVar[str] = "Huh et al. 2024"

    @property
    def label(self) -> str:
        """``mutual_knn``, with k where it is not 10."""
        return "mutual_knn" if self.k == 10 else f"mutual_knn_{self.k}"

    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Common neighbors over k."""
        return common.double() / self.k
