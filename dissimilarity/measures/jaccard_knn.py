"""Jaccard similarity of neighborhoods."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples, unit_numbers
from dissimilarity.measures.base.neighbor_measure import NeighborMeasure
from dissimilarity.measures.numerics.neighbors import common_neighbors, nearest_neighbors
from dissimilarity.probe.arguments import flag, whole


def jaccard_knn(
    x: ArrayLike, y: ArrayLike, k: int = 10, own_sequence: bool = True, units: ArrayLike | None = None
) -> Float[Tensor, ""]:
    """Return the mean Jaccard similarity of the k nearest neighbors in two representations of the same samples.

    Mean over i of |N_x(i) & N_y(i)| / |N_x(i) or N_y(i)|, with N(i) the k samples of largest cosine with sample i (Wang
    et al. 2022). Symmetric; invariant to orthogonal maps and isotropic scaling of either side. See ``JaccardKNN``.

    Args:
        x: at least k + 2 samples, (n, p): a tensor, numpy array or nested list. All samples are compared: n^2 (p + q)
            operations.
        y: the same samples in the other representation, (n, q).
        k: neighbors per sample.
        own_sequence: whether other samples of its own sequence may be neighbors of a sample.
        units: the sequence of each sample, where these may not. None = each sample is its own.

    Returns:
        float64 scalar in [0, 1]; 1 = same neighborhoods.

    Examples:
        >>> x = [[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 1.0], [1.0, 1.0]]
        >>> y = [[1.0, 0.1], [0.1, 1.0], [1.0, 0.3], [0.4, 1.0], [0.5, 1.0]]
        >>> print(f"{jaccard_knn(x, x, k=2):.2f} {jaccard_knn(x, y, k=2):.2f}")
        1.00 0.47
    """
    x, y = paired_samples(x, y, whole("k", k) + 2)
    sequence = None if flag("own_sequence", own_sequence) else unit_numbers(units, len(x))
    first, second = (nearest_neighbors(side, k, sequence=sequence) for side in (x, y))
    return jaccard_share(common_neighbors(first, second), k).mean()


def jaccard_share(common: Int[Tensor, "*times n"], k: int) -> Float[Tensor, "*times n"]:
    """Return the number of common neighbors divided by the number of neighbors on either side."""
    return common.double() / (2 * k - common)


class JaccardKNN(NeighborMeasure):
    """Jaccard similarity of neighborhoods (Wang et al. 2022): mean over i of |N_x(i) & N_y(i)| / |N_x(i) or N_y(i)|.

    N(i) are the k samples of largest cosine with sample i, excluding i itself. Ties are broken by index. ``MutualKNN``
    says what ``own_sequence=False`` leaves out and why.

    Args:
        k: neighbors per sample.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
        own_sequence: whether other samples of its own sequence may be neighbors of a sample.
    """

    titles: ClassVar[Mapping[str, str]] = {"jaccard_knn": "Jaccard kNN"}
    formula: ClassVar[str] = "mean over i of |N_x(i) & N_y(i)| / |N_x(i) or N_y(i)|, N as in mutual kNN"
    source: ClassVar[str] = "Wang et al. 2022"

    @property
    def label(self) -> str:
        """``jaccard_knn``, with k if it is not 10, and with ``_across`` if neighbors are of other sequences alone."""
        return self.with_suffix("jaccard_knn")

    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Return the value of each sample."""
        return jaccard_share(common, self.k)
