"""Measures that compare the nearest neighbors of each sample."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_pairs_left_out, unit_pairs
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.measures.numerics.neighbors import (
    Neighbors,
    check_neighbors,
    common_neighbors,
    normalized_samples,
    others,
    ranked_neighbors,
)

SPARE = 64
"""Maximum number of neighbors listed beyond 2 k. The jackknife needs them, because it leaves some samples out."""


class NeighborMeasure(SampleMeasure):
    """A mean over the samples of a function of how many of their k nearest neighbors two sides have in common.

    Args:
        k: neighbors per sample.
        max_samples: maximum number of samples to compare.
        seed: selects the samples.
        own_sequence: whether other samples of its own sequence may be neighbors of a sample.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset({"orthogonal", "isotropic_scaling", "permutation"})
    minimum_samples: int = 11
    identical: ClassVar[float] = 1.0
    cost: ClassVar[str] = "n^2 (p + q)"

    def __init__(self, k: int = 10, max_samples: int = 1024, seed: int = 0, own_sequence: bool = True) -> None:
        super().__init__(max_samples, seed)
        if not 0 < k < max_samples:
            raise ValueError(f"expected 0 < k < max_samples, found k={k} and max_samples={max_samples}")
        self.k, self.own_sequence = k, own_sequence
        self.minimum_samples = k + 1

    @abstractmethod
    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Return the value of each sample from the number of its common neighbors."""

    def with_suffix(self, name: str) -> str:
        """Return a label with k if it is not 10, which tells whether neighbors are of other sequences alone."""
        return (name if self.k == 10 else f"{name}_{self.k}") + ("" if self.own_sequence else "_across")

    def prepare(self, x: Float[Tensor, "n p"]) -> Neighbors:
        """Return the neighbor lists."""
        return self._listed(x, None)

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Neighbors:
        """Return the neighbor lists of samples from several sequences."""
        return self._listed(x, None if self.own_sequence else sequence.to(x.device))

    def _listed(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"] | None) -> Neighbors:
        check_neighbors(len(x), self.k, sequence)
        samples, listed = normalized_samples(x), min(2 * self.k + min(SPARE, len(x) // 8), others(len(x), sequence))
        sequence = None if sequence is None else sequence.to(samples.device)
        nearest = ranked_neighbors(samples, self.k, listed, x.dtype == torch.float32, sequence=sequence)
        return Neighbors(nearest, samples, sequence)

    def between(self, x: Neighbors, y: Neighbors, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the mean over the samples."""
        common = common_neighbors(x.nearest[:, : self.k], y.nearest[:, : self.k])
        return weighted_mean(self.share(common), weight)

    def rearrange(self, x: Neighbors, order: Int[Tensor, " n"]) -> Neighbors:
        """Return the lists of the rearranged samples."""
        return x.rearranged(order)

    def rearranged_values(self, x: Neighbors, y: Neighbors, orders: Int[Tensor, "nulls n"]) -> Float[Tensor, " nulls"]:
        """Return the value in each rearrangement: the lists stay, and only what they are compared with moves."""
        n, lists = len(x.nearest), x.nearest[:, : self.k]
        in_y = torch.zeros(n, n, dtype=torch.bool, device=lists.device).scatter_(1, y.nearest[:, : self.k], True)
        values = []
        for place in orders.to(lists.device).argsort(1):  # where each sample of x goes
            common = in_y.take(place[:, None] * n + place[lists]).sum(1)
            values.append(self.share(common).mean())
        return torch.stack(values)

    def estimate(
        self, x: Neighbors, y: Neighbors, unit: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value, and the influences from leaving out each unit in turn and some pairs of units.

        A sample also counts in the lists of others, so most of a unit's effect depends on which other units are
        present. The plain jackknife would count that part several times. Whether a sample is among the k nearest
        depends on the k that are nearer, so k units interact, or at least 2.
        """
        unit, value = unit.to(x.samples.device), self.between(x, y)
        n_units = int(unit.max()) + 1
        pairs = unit_pairs(n_units)
        left_out = torch.zeros(n_units + len(pairs), n_units, device=unit.device)
        left_out[torch.arange(n_units), torch.arange(n_units)] = 1
        left_out[n_units:].scatter_(1, pairs.to(left_out.device), 1)
        remains = left_out.T[unit] == 0
        if int(remains.sum(0).min()) - (len(unit) - others(len(unit), x.sequence)) < self.k:
            return value, value.new_full((n_units,), float("nan"))
        common = self._common_without(x, y, unit, left_out.T, remains)
        values = (self.share(common) * remains).sum(0) / remains.sum(0)
        return value, influence_of_pairs_left_out(value, values[:n_units], values[n_units:], pairs, max(2, self.k))

    def _common_without(
        self,
        x: Neighbors,
        y: Neighbors,
        unit: Int[Tensor, " n"],
        left_out: Float[Tensor, "units times"],
        remains: Bool[Tensor, "n times"],
    ) -> Int[Tensor, "n times"]:
        """Return the number of common neighbors of each sample, each time without the units that are left out.

        Args:
            x: the first side.
            y: the second side.
            unit: the jackknife unit of each sample.
            left_out: 1 for each unit that is left out that time.
            remains: whether a sample remains that time.
        """
        (lists_x, before_x), (lists_y, before_y) = (self._long_enough(side, unit, left_out, remains) for side in (x, y))
        position = lists_y.new_full((len(unit), len(unit)), -1)
        position.scatter_(1, lists_y, torch.arange(lists_y.shape[1], device=position.device).expand_as(lists_y))
        in_y = position.gather(1, lists_x)
        # An entry moves up by the entries before it that are left out, those of at most two units.
        sample, a = ((in_y >= 0) & self._may_count(before_x)).nonzero().unbind(1)
        b = in_y[sample, a]
        near = self._may_count(before_y)[sample, b]
        sample, a, b = sample[near], a[near], b[near]
        in_both = (a[:, None] - before_x[sample, a] @ left_out < self.k) & (
            b[:, None] - before_y[sample, b] @ left_out < self.k
        )
        in_both &= remains[lists_x[sample, a]]
        return torch.zeros_like(remains, dtype=torch.int32).index_add_(0, sample, in_both.int())

    def _may_count(self, before: Float[Tensor, "n listed units"]) -> Bool[Tensor, "n listed"]:
        """Return which entries can be among the first k when any two units are left out."""
        return torch.arange(before.shape[1], device=before.device) - 2 * before.amax(2) < self.k

    def _long_enough(
        self,
        side: Neighbors,
        unit: Int[Tensor, " n"],
        left_out: Float[Tensor, "units times"],
        remains: Bool[Tensor, "n times"],
    ) -> tuple[Int[Tensor, "n listed"], Float[Tensor, "n listed units"]]:
        """Return lists that hold k remaining samples each time, and how many of each unit come before each entry."""
        nearest, listed = side.nearest, side.nearest.shape[1]
        while True:
            is_member = torch.eye(len(left_out), device=unit.device)[unit[nearest]]
            through = is_member.cumsum(1)
            enough = listed - through[:, -1] @ left_out >= self.k
            if bool((enough | ~remains).all()):
                return nearest, through - is_member
            listed = min(2 * listed, others(len(nearest), side.sequence))
            nearest = ranked_neighbors(side.samples, self.k, listed, sequence=side.sequence)
