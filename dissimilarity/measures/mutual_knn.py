"""Mutual k nearest neighbors."""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.neighbor_measure import NeighborMeasure
from dissimilarity.measures.numerics.neighbors import common_neighbors, nearest_neighbors


def mutual_knn(x: ArrayLike, y: ArrayLike, k: int = 10) -> Float[Tensor, ""]:
    """Return the mean share of k nearest neighbors that two representations of the same samples have in common.

    Mean over i of |N_x(i) & N_y(i)| / k, with N(i) the k samples of largest cosine with sample i (Huh et al. 2024).
    Symmetric; invariant to orthogonal maps and isotropic scaling of either side. See ``MutualKNN``.

    Args:
        x: more than k samples, (n, p): a tensor, numpy array or nested list. All samples are compared: n^2 (p + q)
            operations.
        y: the same samples in the other representation, (n, q).
        k: neighbors per sample.

    Returns:
        float64 scalar in [0, 1]; 1 = same neighborhoods, k / (n - 1) by chance if samples are independent.

    Example:
        >>> x = [[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 1.0], [1.0, 1.0]]
        >>> y = [[1.0, 0.1], [0.1, 1.0], [1.0, 0.3], [0.4, 1.0], [0.5, 1.0]]
        >>> print(f"{mutual_knn(x, x, k=2):.2f} {mutual_knn(x, y, k=2):.2f}")
        1.00 0.60
    """
    x, y = paired_samples(x, y, k + 1)
    return mutual_share(common_neighbors(nearest_neighbors(x, k), nearest_neighbors(y, k)), k).mean()


def mutual_share(common: Int[Tensor, "*times n"], k: int) -> Float[Tensor, "*times n"]:
    """Return the number of common neighbors divided by k."""
    return common.double() / k


class MutualKNN(NeighborMeasure):
    """Mutual k nearest neighbors (Huh et al. 2024, without their clamping): mean over i of |N_x(i) & N_y(i)| / k.

    N(i) are the k samples of largest cosine with sample i, excluding i itself. Ties are broken by index. Chance is
    k / (n - 1) for independent samples. Tokens of one sequence are neighbors in any model: for them it is the null.

    Args:
        k: neighbors per sample.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
    """

    formula: ClassVar[str] = "mean over i of |N_x(i) & N_y(i)| / k, N(i) the k samples of largest cosine with sample i"
    source: ClassVar[str] = "Huh et al. 2024"

    @property
    def label(self) -> str:
        """``mutual_knn``, with k if it is not 10."""
        return "mutual_knn" if self.k == 10 else f"mutual_knn_{self.k}"

    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Return the value of each sample."""
        return mutual_share(common, self.k)
