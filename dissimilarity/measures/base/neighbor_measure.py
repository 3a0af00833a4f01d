"""Measures that compare the nearest neighbors of each sample."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import influence_of_pairs_left_out, over_pairs, unit_pairs
from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.measures.numerics.neighbors import (
    Neighbors,
    check_neighbors,
    common_neighbors,
    normalized_samples,
    others,
    ranked_neighbors,
)
from dissimilarity.probe.arguments import flag, whole

SPARE = 64
"""Maximum number of neighbors listed beyond 2 k. The jackknife needs them, because it leaves some samples out."""

ENTRIES_AT_ONCE = 2**10
"""Entries of lists that are taken together: few enough that their places stay in the cache."""

GONE = 2**13
"""Places by which an entry that is left out moves back."""

NOWHERE = torch.iinfo(torch.int16).max
"""Place of a sample in a list that it is not in."""


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
    minimum_samples: int = 12
    identical: ClassVar[float] = 1.0
    cost: ClassVar[str] = "n^2 (p + q)"

    def __init__(self, k: int = 10, max_samples: int = 1024, seed: int = 0, own_sequence: bool = True) -> None:
        super().__init__(max_samples, seed)
        self.k, self.own_sequence = whole("k", k), flag("own_sequence", own_sequence)
        if self.k >= self.max_samples:
            raise ValueError(f"expected 0 < k < max_samples, found k={k} and max_samples={max_samples}")
        self.minimum_samples = self.k + 2

    @abstractmethod
    def share(self, common: Int[Tensor, "*times n"]) -> Float[Tensor, "*times n"]:
        """Return the value of each sample from the number of its common neighbors."""

    def with_suffix(self, name: str) -> str:
        """Return a label with k if it is not 10, which tells whether neighbors are of other sequences alone."""
        return (name if self.k == 10 else f"{name}_{self.k}") + ("" if self.own_sequence else "_across")

    def value(self, x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
        """Return the value over all samples of x and y at once, from lists without the spare neighbors."""
        first, second = (self._listed(side, None, self.k) for side in paired_samples(x, y, self.minimum_samples))
        return self.between(first, second)

    def prepare(self, x: Float[Tensor, "n p"]) -> Neighbors:
        """Return the neighbor lists."""
        return self._listed(x, None)

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Neighbors:
        """Return the neighbor lists of samples from several sequences."""
        return self._listed(x, None if self.own_sequence else sequence.to(x.device))

    def _listed(
        self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"] | None, listed: int | None = None
    ) -> Neighbors:
        check_neighbors(len(x), self.k, sequence)
        samples = normalized_samples(x)
        listed = listed or min(2 * self.k + min(SPARE, len(x) // 8), others(len(x), sequence))
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

    def rearranged_values(
        self, x: Neighbors, partners: Sequence[Neighbors], orders: Int[Tensor, "nulls n"]
    ) -> Float[Tensor, "nulls partners"]:
        """Return the value in each rearrangement: the lists stay, and only what they are compared with moves."""
        n, lists = len(x.nearest), x.nearest[:, : self.k]
        places = orders.to(lists.device).argsort(1)  # where each sample of x goes
        values = []
        for y in partners:
            in_y = torch.zeros(n, n, dtype=torch.bool, device=lists.device).scatter_(1, y.nearest[:, : self.k], True)
            common = (in_y.take(place[:, None] * n + place[lists]).sum(1) for place in places)
            values.append(torch.stack([self.share(counts).mean() for counts in common]))
        return torch.stack(values, 1)

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
        pairs = unit_pairs(n_units).to(unit.device)
        is_left_out = torch.zeros(n_units, n_units + len(pairs), dtype=torch.bool, device=unit.device)
        is_left_out[:, :n_units].fill_diagonal_(True)
        is_left_out[:, n_units:].scatter_(0, pairs.T, True)
        remains = ~is_left_out[unit]
        remaining = remains.sum(0)
        if int(remaining.min()) - (len(unit) - others(len(unit), x.sequence)) <= self.k:
            return value, value.new_full((n_units,), float("nan"))
        common = self._common_without(x, y, unit, pairs, remains)
        values = (self.share(common) * remains).sum(0) / remaining
        return value, influence_of_pairs_left_out(value, values[:n_units], values[n_units:], pairs, max(2, self.k))

    def _common_without(
        self,
        x: Neighbors,
        y: Neighbors,
        unit: Int[Tensor, " n"],
        pairs: Int[Tensor, "pairs 2"],
        remains: Bool[Tensor, "n times"],
    ) -> Int[Tensor, "n times"]:
        """Return the number of common neighbors of each sample, each time without some units.

        Args:
            x: the first side.
            y: the second side.
            unit: the jackknife unit of each sample.
            pairs: the pairs of units that are left out after each one alone.
            remains: whether a sample remains that time.
        """
        (lists_x, reach_x), (lists_y, reach_y) = (self._long_enough(side, unit, pairs, remains) for side in (x, y))
        position = torch.full((len(unit), len(unit)), NOWHERE, dtype=torch.int16, device=unit.device)
        places_y = torch.arange(lists_y.shape[1], dtype=torch.int16, device=unit.device)
        in_y = position.scatter_(1, lists_y, places_y.expand_as(lists_y)).gather(1, lists_x)
        in_reach = torch.arange(lists_x.shape[1], device=unit.device) < reach_x[:, None]
        sample, a = (in_reach & (in_y < reach_y[:, None])).nonzero().unbind(1)
        entry, b = lists_x[sample, a], in_y[sample, a]
        common, n_units = torch.zeros_like(remains, dtype=torch.int16), remains.shape[1] - len(pairs)
        # An entry moves up by the entries before it that are left out, and is among the neighbors if it gets below k.
        for block in torch.arange(len(sample), device=sample.device).split(ENTRIES_AT_ONCE):
            places = (
                _places(unit[lists[sample[block]]], place[block], unit[entry[block]], n_units)
                for lists, place in ((lists_x, a), (lists_y, b))
            )
            common.index_add_(0, sample[block], (torch.maximum(*places) < self.k).short())
        return common

    def _long_enough(
        self,
        side: Neighbors,
        unit: Int[Tensor, " n"],
        pairs: Int[Tensor, "pairs 2"],
        remains: Bool[Tensor, "n times"],
    ) -> tuple[Int[Tensor, "n listed"], Int[Tensor, " n"]]:
        """Return lists that hold k remaining samples each time, and the places up to which entries ever count."""
        nearest, sizes = side.nearest, unit.bincount()
        bound = self.k + int(sizes[pairs].sum(1).max() if len(pairs) else sizes.max())
        while True:
            nearest = nearest[:, :bound]
            members = torch.zeros(len(unit), len(sizes), dtype=torch.int16, device=unit.device)
            members.scatter_add_(1, unit[nearest], torch.ones_like(nearest, dtype=torch.int16))
            left_out = torch.cat([members, over_pairs(members)], 1)
            listed = nearest.shape[1]
            if listed == bound or bool(((listed - left_out >= self.k) | ~remains).all()):
                return nearest, self.k + left_out.amax(1)
            listed = min(2 * listed, others(len(nearest), side.sequence))
            nearest = ranked_neighbors(side.samples, self.k, listed, sequence=side.sequence)


def _places(
    lists: Int[Tensor, "entries listed"], place: Int[Tensor, " entries"], own: Int[Tensor, " entries"], n_units: int
) -> Int[Tensor, "entries times"]:
    """Return the place of entries in their lists without each unit, and then without each pair of ``unit_pairs``.

    Args:
        lists: the units of the samples in the list that an entry is in.
        place: the place of the entry.
        own: its unit; without that, its place is large.
        n_units: number of units.
    """
    before = torch.zeros(len(lists), n_units, dtype=torch.int16, device=lists.device)
    before.scatter_add_(1, lists, (torch.arange(lists.shape[1], device=lists.device) < place[:, None]).short())
    before.scatter_(1, own[:, None], -GONE)
    place = place[:, None].short()
    return torch.cat([place - before, place - over_pairs(before)], 1)
