"""Probe sets of sequences that do not have equally many rows: what stands at padded positions is no sample.

Where a mask says which positions are real, the rows of a few sequences are put one behind the other, without what lies
between: sums over samples stay dense, and a jackknife group has as many rows as its sequences have. No row is left out
to make groups equal.

The standard errors stay those of ``dissimilarity.inference.jackknife``: the influence of a group is that of its sums,
the number of its rows among them, so that long sequences weigh what they weigh in the value itself. (Busing et al.
1999 weigh groups by the inverse of their sizes, which is for rows that do not depend on each other; tokens of a
sequence do.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.probe.batches import Slice
from dissimilarity.probe.sampling import priorities


@dataclass(frozen=True, eq=False)
class Uneven:
    """How many rows each sequence of a probe set has.

    Attributes:
        counts: rows of each sequence, 1 or more.
        groups: the jackknife group of each.
        samples: most rows that a sample measure sees.
    """

    counts: Int[Tensor, " sequences"]
    groups: Int[Tensor, " sequences"]
    samples: int

    @cached_property
    def sampled(self) -> Int[Tensor, " sampled"]:
        """The rows that sample measures see, by their place among all rows, ascending."""
        return seeded_rows(int(self.counts.sum()), self.samples, 0)

    @cached_property
    def sequence(self) -> Int[Tensor, " sampled"]:
        """Of which sequence each of them is."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)[self.sampled]

    def longest(self, group: int) -> int:
        """Rows of the longest sequence of a group."""
        return int(self.counts[self.groups == group].max())

    def sampled_among(self, first: int, count: int) -> Int[Tensor, " some"]:
        """Which of ``count`` rows are sampled, the first of which is row ``first`` of all."""
        return self.sampled[(self.sampled >= first) & (self.sampled < first + count)] - first

    def before(self, sequence: int) -> int:
        """Rows of the sequences before this one."""
        return int(self.counts[:sequence].sum())

    def before_group(self, group: int) -> int:
        """Rows of the groups before this one."""
        return int(self.counts[self.groups < group].sum())


def seeded_rows(rows: int, samples: int, seed: int) -> Int[Tensor, " kept"]:
    """At most so many of some rows, ascending; which, the seed says."""
    return priorities(0, rows, seed).argsort()[:samples].sort().values


def check_mask(mask: Tensor, sequences: int, length: int | None) -> None:
    """Refuses what is no mask of a probe set of so many sequences, of so many positions each if that is known.

    Raises:
        ValueError: another type or shape, or a sequence without a real position.
    """
    shape = (sequences, "positions" if length is None else length)
    if mask.dtype != torch.bool or mask.ndim != 2 or len(mask) != sequences or length not in (None, mask.shape[1]):
        expected = f"({shape[0]}, {shape[1]})"
        raise ValueError(
            f"expected a mask of bool and of shape {expected}, True where a position is real, found {mask.dtype} and "
            f"{tuple(mask.shape)}"
        )
    if not bool(mask.any(1).all()):
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"expected a real position in every sequence, found none in {len(empty)} of them, the first of which is "
            f"sequence {empty[0]}; leave them out of the probe set"
        )


def uneven_plan(slices: Sequence[Slice], counts: Int[Tensor, " sequences"]) -> list[Slice]:
    """The chunks of a plan, put together where a sequence has more than half of the rows.

    The null shifts the rows of a chunk by as many as the longest sequence of its group has, and no row must come to
    stand beside one of its own sequence. Groups are put together first, with which there are fewer of them, and then
    the chunks inside of each. What needs nothing of this stays as it is.

    Raises:
        ValueError: one sequence has more than half of all rows.
    """

    def met(pieces: Sequence[Slice], longest: int) -> bool:
        return int(counts[pieces[0][0] : pieces[-1][1]].sum()) >= 2 * longest

    def longest_of(pieces: Sequence[Slice]) -> int:
        return int(counts[pieces[0][0] : pieces[-1][1]].max())

    groups: list[list[Slice]] = []
    for piece in slices:
        # A group of several chunks stays together, and one that cannot stand alone takes the next one in.
        if groups and (piece[2] == groups[-1][-1][2] or not met(groups[-1], longest_of(groups[-1]))):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    while not met(groups[-1], longest_of(groups[-1])):
        if len(groups) == 1:
            raise ValueError(
                f"expected no sequence with more than half of all real positions, for the null shifts sequences "
                f"against each other; found one with {longest_of(groups[0])} of {int(counts.sum())}; pass more "
                "sequences"
            )
        last = groups.pop()
        groups[-1] += last
    planned: list[Slice] = []
    for number, pieces in enumerate(groups):
        longest, chunks = longest_of(pieces), []
        for piece in pieces:
            if chunks and not met(chunks[-1], longest):
                chunks[-1].append(piece)
            else:
                chunks.append([piece])
        if len(chunks) > 1 and not met(chunks[-1], longest):
            last = chunks.pop()
            chunks[-1] += last
        planned += [(chunk[0][0], chunk[-1][1], number) for chunk in chunks]
    return planned


def pooled(
    activation: Float[Tensor, "sequences positions d"], real: Bool[Tensor, "sequences positions"], pool: str
) -> Float[Tensor, "sequences d"]:
    """One row a sequence: the mean over its real positions, or the first or the last of them."""
    if pool == "mean":
        return torch.where(real[..., None], activation.float(), 0).sum(1) / real.sum(1, keepdim=True)
    places = torch.arange(real.shape[1], device=real.device)
    if pool == "first":
        index = torch.where(real, places, real.shape[1]).amin(1)
    else:
        index = torch.where(real, places, -1).amax(1)
    return activation[torch.arange(len(real), device=real.device), index]
