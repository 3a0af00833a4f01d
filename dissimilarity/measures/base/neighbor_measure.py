"""Measures that compare the nearest neighbors of each sample."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import group_pairs, stderr_of_pairs_left_out
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.measures.numerics.neighbors import (
    Neighbors,
    check_neighbors,
    common_neighbors,
    ranked_neighbors,
    unit_rows,
)

SPARE = 64
"""How many more rows than 2 k are listed by nearness at most, for the jackknife, which leaves some of them out."""


class NeighborMeasure(SampleMeasure):
    """A mean over the samples of a function of how many of their k nearest neighbors two sides have in common.

    Args:
        k: neighbors of each sample.
        samples: most rows that are compared.
        seed: which rows.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"orthogonal", "isotropic_scaling", "permutation"})
    minimum_samples: int = 11
    identical: ClassVar[float] = 1.0
    cost: ClassVar[str] = "n^2 (p + q)"

    def __init__(self, k: int = 10, samples: int = 1024, seed: int = 0) -> None:
        super().__init__(samples, seed)
        if not 0 < k < samples:
            raise ValueError(f"expected 0 < k < samples, found k={k} and samples={samples}")
        self.k = k
        self.minimum_samples = k + 1

    @abstractmethod
    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """The value of each sample from the number of its common neighbors."""

    def prepare(self, x: Float[Tensor, "n p"]) -> Neighbors:
        """Neighbor lists."""
        check_neighbors(len(x), self.k)
        rows, many = unit_rows(x), min(2 * self.k + min(SPARE, len(x) // 8), len(x) - 1)
        return Neighbors(ranked_neighbors(rows, self.k, many, x.dtype == torch.float32), rows)

    def between(self, x: Neighbors, y: Neighbors, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Mean over the samples."""
        common = common_neighbors(x.nearest[:, : self.k], y.nearest[:, : self.k])
        return weighted_mean(self.share(common), weight)

    def rearrange(self, x: Neighbors, order: Int[Tensor, " n"]) -> Neighbors:
        """Lists of the rearranged rows."""
        return x.rearranged(order)

    def estimate(
        self, x: Neighbors, y: Neighbors, group: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value and its error by leaving out each group in turn, and some pairs of groups.

        A sample counts in the lists of others too, so that most of what a group does hangs on which others are there:
        the jackknife alone would count that twice.
        """
        group, value = group.to(x.rows.device), self.between(x, y)
        groups = int(group.max()) + 1
        pairs = group_pairs(groups)
        out = torch.zeros(groups + len(pairs), groups, device=group.device)
        out[torch.arange(groups), torch.arange(groups)] = 1
        out[groups:].scatter_(1, pairs.to(out.device), 1)
        kept = out.T[group] == 0
        if int(kept.sum(0).min()) <= self.k:
            return value, value.new_tensor(float("nan"))
        common = self._common_without(x, y, group, out.T, kept)
        values = (self.share(common) * kept).sum(0) / kept.sum(0)
        return value, stderr_of_pairs_left_out(value, values[:groups], values[groups:], pairs)

    def _common_without(
        self,
        x: Neighbors,
        y: Neighbors,
        group: Int[Tensor, " n"],
        out: Float[Tensor, "groups times"],
        kept: Bool[Tensor, "n times"],
    ) -> Int[Tensor, "n times"]:
        """Common neighbors of each row, each time without the groups that ``out`` marks with 1."""
        (lists_x, before_x), (lists_y, before_y) = (self._long_enough(side, group, out, kept) for side in (x, y))
        place = lists_y.new_full((len(group), len(group)), -1)
        place.scatter_(1, lists_y, torch.arange(lists_y.shape[1], device=place.device).expand_as(lists_y))
        in_y = place.gather(1, lists_x)
        # An entry moves up by the entries before it that are left out, those of at most two groups.
        row, a = ((in_y >= 0) & self._may_count(before_x)).nonzero().unbind(1)
        b = in_y[row, a]
        near = self._may_count(before_y)[row, b]
        row, a, b = row[near], a[near], b[near]
        among = (a[:, None] - before_x[row, a] @ out < self.k) & (b[:, None] - before_y[row, b] @ out < self.k)
        among &= kept[lists_x[row, a]]
        return torch.zeros_like(kept, dtype=torch.int32).index_add_(0, row, among.int())

    def _may_count(self, before: Float[Tensor, "n many groups"]) -> Bool[Tensor, "n many"]:
        """Which entries can be among the first k when any two groups are left out."""
        return torch.arange(before.shape[1], device=before.device) - 2 * before.amax(2) < self.k

    def _long_enough(
        self,
        side: Neighbors,
        group: Int[Tensor, " n"],
        out: Float[Tensor, "groups times"],
        kept: Bool[Tensor, "n times"],
    ) -> tuple[Int[Tensor, "n many"], Float[Tensor, "n many groups"]]:
        """Lists by nearness that hold k kept rows each time, and how many of each group stand before an entry."""
        nearest, many = side.nearest, side.nearest.shape[1]
        while True:
            of_group = torch.eye(len(out), device=group.device)[group[nearest]]
            through = of_group.cumsum(1)
            enough = many - through[:, -1] @ out >= self.k
            if bool((enough | ~kept).all()):
                return nearest, through - of_group
            many = min(2 * many, len(nearest) - 1)
            nearest = ranked_neighbors(side.rows, self.k, many)
