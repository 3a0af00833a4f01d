"""Mutual k nearest neighbours."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.moments import full_float32
from dissimilarity.sample_measure import SampleMeasure, weighted_mean


def mutual_knn(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], k: int = 10) -> Float[Tensor, ""]:
    """Mean share of the k nearest neighbours that two representations of the same samples have in common.

    Args:
        x, y: rows are samples; widths may differ. All rows are compared: n^2 (p + q) operations.
        k: neighbours of each sample; needs n > k.

    Returns:
        float64 scalar in [0, 1]; 1 = same neighbourhoods, k / (n - 1) by chance.
    """
    return MutualKNN(k, samples=max(1024, k + 1)).of(x, y)


def nearest_neighbours(x: Float[Tensor, "n p"], k: int, rows_at_once: int = 1024) -> Int[Tensor, "n k"]:
    """Indices of each row's k nearest other rows by cosine, ascending; of equally near ones the lower index.

    Rows are neither centred nor clamped; the diagonal is masked, so duplicates of a row are neighbours of it.
    """
    if len(x) <= k:
        raise ValueError(f"too few samples: have {len(x)}, {k} nearest neighbours need at least {k + 1}")
    largest = x.abs().amax(1, keepdim=True)
    if not bool((largest > 0).all()):
        raise ValueError(f"{int((largest == 0).sum())} rows are zero, which have no direction to compare by cosine")
    # By the largest entry first, lest the squares overflow or vanish.
    unit = x / largest
    unit = unit / unit.norm(dim=1, keepdim=True)
    found = []
    for start in range(0, len(x), rows_at_once):
        with full_float32(x.device):
            similarity = unit[start : start + rows_at_once] @ unit.T
        similarity.diagonal(start)[:] = float("-inf")
        kth = similarity.topk(k).values[:, -1:]
        nearer, tied = similarity > kth, similarity == kth
        open_places = k - nearer.sum(1, keepdim=True)
        chosen = nearer | (tied & (tied.cumsum(1) <= open_places))
        found.append(chosen.nonzero()[:, 1].view(-1, k))
    return torch.cat(found)


def common_neighbours(x: Int[Tensor, "n k"], y: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """How many neighbours of each row two sides have in common."""
    return (x[:, :, None] == y[:, None, :]).any(-1).sum(-1)


class MutualKNN(SampleMeasure):
    """Mutual k nearest neighbours (Huh et al. 2024, without their clamping): mean over i of |N_x(i) & N_y(i)| / k.

    N(i) are the k rows of largest cosine with row i, itself excluded; ties are broken by index. Chance is k / (n - 1).
    The standard error takes the lists for given, though each row may enter those of others: in simulations it was 0.75
    to 1.05 of the true one.

    Args:
        k: neighbours of each sample.
        samples: most rows that are compared.
        seed: which rows.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset({"orthogonal", "isotropic_scaling", "permutation"})
    minimum_samples: int = 11
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "mean over i of |N_x(i) & N_y(i)| / k, N(i) the k rows of largest cosine with row i"
    cost: ClassVar[str] = "n^2 (p + q)"
    source: ClassVar[str] = "Huh et al. 2024"

    def __init__(self, k: int = 10, samples: int = 1024, seed: int = 0) -> None:
        super().__init__(samples, seed)
        if not 0 < k < samples:
            raise ValueError(f"expected 0 < k < samples, found k={k} and samples={samples}")
        self.k = k
        self.minimum_samples = k + 1

    @property
    def label(self) -> str:
        """``mutual_knn``."""
        return "mutual_knn" if self.k == 10 else f"mutual_knn_{self.k}"

    def prepare(self, x: Float[Tensor, "n p"]) -> Int[Tensor, "n k"]:
        """Neighbour lists."""
        return nearest_neighbours(x, self.k)

    def between(
        self, x: Int[Tensor, "n k"], y: Int[Tensor, "n k"], weight: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean share of common neighbours."""
        return weighted_mean(common_neighbours(x, y).double() / self.k, weight)

    def rearrange(self, x: Int[Tensor, "n k"], order: Int[Tensor, " n"]) -> Int[Tensor, "n k"]:
        """Lists of the rearranged rows: the neighbours are renamed with the rows."""
        return order.argsort()[x[order]]
