"""Two models' sides of a comparison, and the sums over pairs of their sites.

A ``Side`` holds what measures need of one model alone, a ``Cross`` what they need of two, for any number of site
pairs at once. Both grow by chunks: the activations of a few whole sequences that belong to one jackknife group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from dissimilarity.checks import count_not_finite
from dissimilarity.chunk import Chunk
from dissimilarity.moments import (
    Moments,
    as_rows,
    cross_moments,
    heavy,
    in_range,
    one_pair,
    shifted,
    side_moments,
    squared_norms,
    worthwhile_shift,
)
from dissimilarity.sampling import sampled_positions, sampled_rows
from dissimilarity.sums import Sums, all_reduce
from dissimilarity.uneven import Uneven, seeded_rows

Pair = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """Rows that one sample measure sees.

    Attributes:
        rows: their places among those that are held.
        sequence: of which sequence each is.
        shift: how far they are shifted for the null, so that none meets a row of its own sequence.
    """

    rows: Int[Tensor, " n"]
    sequence: Int[Tensor, " n"]
    shift: int


class Side:
    """What the measures need of one model on the probe set.

    Args:
        groups: number of jackknife groups.
        samples: most rows, over all processes, that the sample measures see; 0 for none.
        of: number of sequences over all processes, out of which those are.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        moments: whether any measure reads sums.
        only_sampled: sites of which the sample measures alone see rows, and ``add`` gets no others.
        uneven: how many rows each sequence has, where they have unequally many; then chunks are of one group each, and
            hold (1, rows, d) of a site that has positions.
    """

    def __init__(
        self,
        groups: int,
        samples: int = 0,
        of: int = 0,
        sync: bool = False,
        moments: bool = True,
        only_sampled: frozenset[str] = frozenset(),
        uneven: Uneven | None = None,
    ) -> None:
        self.wanted, self.of, self.sync, self.moments = samples, of, sync, moments
        self.only_sampled, self.uneven = only_sampled, uneven
        self.sums = Sums(groups)
        self.n_groups = torch.zeros(groups, dtype=torch.float64)
        self.samples: dict[str, Tensor] = {}
        self.sequence_groups = torch.zeros(0, dtype=torch.int64)
        self.sequences = 0
        self.prepared: dict[tuple[str, str], Any] = {}
        self.shift: dict[str, Tensor] = {}
        self._not_finite: dict[str, int] = {}
        self._sampled: dict[str, list[Tensor]] = {}
        self._sequence_groups: list[Tensor] = []
        self._uneven: set[str] = set()

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.n_groups.sum())

    def seen(self, site: str, samples: int, seed: int) -> Seen:
        """Which of the rows that are held for all sample measures one of them sees at a site."""
        if self.uneven is not None and site in self._uneven:
            rows = seeded_rows(len(self.samples[site]), samples, seed)
            sequence = self.uneven.sequence[rows]
            return Seen(rows, sequence, int(sequence.bincount().max()))
        length = len(self.samples[site]) // max(self.sequences, 1)
        chosen = sampled_rows(self.sequences, length, samples, seed)
        return Seen(chosen.flatten(), chosen.flatten() // length, chosen.shape[1])

    def add(self, acts: Mapping[str, Tensor], groups: range) -> Chunk:
        """Adds the activations of some whole sequences.

        Args:
            acts: site -> (sequences, ..., d); everything between counts as positions.
            groups: the jackknife groups that these sequences make up, in equal parts.

        Returns:
            the chunk, for ``Cross.add``.
        """
        chunk = self.chunk(acts, groups)
        per_group, before = 0, int(self.n_groups[groups.start])
        for site, rows in chunk.rows.items():
            per_group = rows.shape[1]
            self._not_finite[site] = self._not_finite.get(site, 0) + count_not_finite(rows)
            if self.moments:
                totals, by_group = side_moments(rows, chunk.norms[site], chunk.apart[site])
                for key, total in totals.items():
                    self.sums.add(site, key, total, by_group[key], groups)
        if self.wanted:
            for site, activation in acts.items():
                self._sampled.setdefault(site, []).append(self._sample(site, activation, groups.start, before))
        if self.uneven is None:
            sequences = len(next(iter(acts.values())))
            self._sequence_groups.append(torch.tensor(groups).repeat_interleave(sequences // len(groups)))
            self.sequences += sequences
        self.n_groups[groups.start : groups.stop] += per_group
        return chunk

    def _sample(self, site: str, activation: Tensor, group: int, before: int) -> Tensor:
        """The rows of a chunk that the sample measures see; of sequences of one length the same positions of each.

        Args:
            site: the site.
            activation: of the chunk.
            group: its first group.
            before: rows of that group in chunks before this one.
        """
        if self.uneven is not None and activation.ndim > 2:
            self._uneven.add(site)
            rows = as_rows(activation)
            if site in self.only_sampled:
                return rows
            first = self.uneven.before_group(group) + before
            return rows[self.uneven.sampled_among(first, len(rows)).to(rows.device)]
        by_sequence = as_rows(activation).unflatten(0, (len(activation), -1))
        if site not in self.only_sampled and by_sequence.shape[1] > 1:
            positions = sampled_positions(self.of, by_sequence.shape[1], self.wanted)
            by_sequence = by_sequence[:, positions.to(by_sequence.device)]
        return by_sequence.flatten(0, 1)

    def chunk(self, acts: Mapping[str, Tensor], groups: range) -> Chunk:
        """The activations of some whole sequences as shifted rows."""
        rows: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        apart: dict[str, Tensor] = {}
        shift = 0
        for site, activation in acts.items():
            if site in self.only_sampled:
                continue
            x = as_rows(activation)
            shift = len(x) // len(activation)
            if self.uneven is not None and activation.ndim > 2:
                shift = self.uneven.longest(groups.start)
            rows[site] = (shifted(x, self._shift(site, x)) if self.moments else x).unflatten(0, (len(groups), -1))
            if self.moments:
                norms[site] = squared_norms(rows[site])
                apart[site] = heavy(norms[site]).to(x.device)
        counts = {site: part.shape[1] for site, part in rows.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"expected as many samples at every site, found (by site, in a group) {counts}; "
                "pool the positions (pool=mean), or compare such sites in calls of their own"
            )
        return Chunk(rows, norms, apart, groups, shift)

    def _shift(self, site: str, x: Tensor) -> Tensor:
        """What the first chunk is taken about; with several processes, that of the first process."""
        if site not in self.shift:
            shift = worthwhile_shift(x).to(x)
            if self.sync:
                dist.broadcast(shift, src=0)
            self.shift[site] = shift
        return self.shift[site]

    def close(self) -> "Side":
        """Ends the accumulation: adds up the processes' sums and collects their sampled rows in order."""
        self.samples = {site: torch.cat(parts) for site, parts in self._sampled.items()}
        self.sequence_groups = torch.cat(self._sequence_groups) if self._sequence_groups else self.sequence_groups
        if self.uneven is not None:
            self.sequence_groups, self.sequences = self.uneven.groups, len(self.uneven.groups)
        self._sampled.clear()
        self._sequence_groups.clear()
        if self.sync:
            self.sums.all_reduce()
            all_reduce(self.n_groups)
            mine = (
                {site: rows.cpu() for site, rows in self.samples.items()},
                self.sequence_groups,
                self._not_finite,
                self.sequences,
            )
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            for site, rows in self.samples.items():
                self.samples[site] = torch.cat([part[0][site] for part in parts]).to(rows.device)
            if self.uneven is None:
                self.sequence_groups = torch.cat([part[1] for part in parts])
                self.sequences = sum(part[3] for part in parts)
            self._not_finite = {site: sum(part[2][site] for part in parts) for site in self._not_finite}
        return self

    def problem(self, site: str) -> str:
        """What keeps a site from being compared; empty if nothing."""
        if self._not_finite[site]:
            return f"{self._not_finite[site]} values at {site} are NaN or infinite"
        if not self.moments:
            rows = self.samples[site]
            return f"zero variance at {site}" if bool((rows == rows[:1]).all()) else ""
        sums = self.sums.totals[site]
        if not in_range(sums):
            return f"values at {site} are too large or too small for float32 sums"
        # Relative to the second moment about the first chunk's mean, which float64 rows may miss by a rounding.
        if bool(sums["a"] - sums["x"] @ sums["x"] / self.n <= 1e-12 * sums["a"]):
            return f"zero variance at {site}"
        return ""


Block = tuple[tuple[str, ...], tuple[str, ...]]
"""Sites of x that are all compared with the same sites of y."""

ABREAST = 1536
"""Columns of x side by side in one product: enough for it to be fast, few enough that a copy stays small."""

NARROW = 256
"""Columns of y up to which partners stand side by side too: products of few columns are slow, copies of them small."""


class Cross:
    """Sums over pairs of sites of two sides.

    Sites that have the same partners are put side by side, some at a time, and so are narrow partners.

    Args:
        pairs: (site of x, site of y).
        groups: number of jackknife groups, or 0 where no error bar is wanted.
        sync, moments: as in ``Side``.
    """

    def __init__(self, pairs: Sequence[Pair], groups: int = 0, sync: bool = False, moments: bool = True) -> None:
        self.pairs, self.sync, self.moments = list(pairs), sync, moments
        partners: dict[str, tuple[str, ...]] = {}
        for site, partner in self.pairs:
            partners[site] = (*partners.get(site, ()), partner)
        sites: dict[tuple[str, ...], tuple[str, ...]] = {}
        for site, others in partners.items():
            sites[others] = (*sites.get(others, ()), site)
        self.blocks: list[Block] = [(together, others) for others, together in sites.items()]
        self._block = {site: index for index, (together, _) in enumerate(self.blocks) for site in together}
        self.sums = Sums(groups)
        self._widths: tuple[dict[str, int], dict[str, int]] = ({}, {})

    def add(self, x: Chunk, y: Chunk) -> None:
        """Adds the samples of two chunks of the same sequences."""
        if x.groups != y.groups:
            raise ValueError(f"expected chunks of the same sequences, found groups {x.groups} and {y.groups}")
        if x.shift != y.shift:
            raise ValueError(f"expected the same number of positions in both models, found {x.shift} and {y.shift}")
        counts = [rows.shape[1] for side in (x, y) for rows in list(side.rows.values())[:1]]
        if len(set(counts)) > 1:
            raise ValueError(
                f"expected chunks of the same sequences, found {counts[0]} and {counts[1]} rows in a group"
            )
        if not self.moments:
            return
        for widths, side in zip(self._widths, (x, y), strict=True):
            widths |= {site: rows.shape[-1] for site, rows in side.rows.items()}
        for index in range(len(self.blocks)):
            self._add_block(index, x, y)

    def _add_block(self, index: int, x: Chunk, y: Chunk) -> None:
        sites, partners = self.blocks[index]
        few_x, few_y = _columns(sites, self._widths[0], ABREAST), _columns(partners, self._widths[1], NARROW)
        (a, heavy_x), (b, heavy_y) = x.norms_of(sites), y.norms_of(partners)
        xs = (self._as_summed(x.rows_of(sites[some])) for some, _ in few_x)
        ys = [self._as_summed(y.rows_of(partners[some])) for some, _ in few_y]
        a, b, heavy = (self._as_summed(of) for of in (a, b, heavy_x | heavy_y))
        ends = {"x": few_x[-1][1].stop, "y": few_y[-1][1].stop, "a": len(sites), "b": len(partners)}
        for key, row, column, total, by_group in cross_moments(xs, a, ys, b, heavy):
            here = {"x": few_x[row][1], "y": few_y[column][1], "a": slice(None), "b": slice(None)}
            whole, place = (ends[key[0]], ends[key[1]]), (here[key[0]], here[key[1]])
            self.sums.add(str(index), key, total, by_group, x.groups, whole, place)

    def _as_summed(self, of: Tensor) -> Tensor:
        """What is known of each row (groups, n, ...), all rows as one group where no group wants sums of its own."""
        return of if self.sums.count else of.flatten(0, 1)[None]

    def close(self) -> "Cross":
        """Ends the accumulation: adds up the processes' sums."""
        if self.sync:
            self.sums.all_reduce()
        return self

    def width(self, partner: str) -> int:
        """Width of a site of y."""
        return self._widths[1][partner]

    def sums_of(self, site: str, partners: Sequence[str]) -> tuple[Moments, Moments]:
        """Cross sums of a site with partners of one width, over all samples (partners, ...), and per group.

        Those per group are (groups, partners, ...), and empty without groups.
        """
        totals = [self._of_pair(self.sums.totals, site, partner) for partner in partners]
        of_all = {key: stacked([part[key] for part in totals]) for key in totals[0]}
        if not self.sums.count:
            return of_all, {}
        groups = [self._of_pair(self.sums.groups, site, partner) for partner in partners]
        return of_all, {key: stacked([part[key] for part in groups], 1) for key in groups[0]}

    def _of_pair(self, sums: Mapping[str, Moments], site: str, partner: str) -> Moments:
        index = self._block[site]
        sites, partners = self.blocks[index]
        row, rows = _place(site, sites, self._widths[0])
        column, columns = _place(partner, partners, self._widths[1])
        return one_pair(sums[str(index)], rows, row, columns, column)


def stacked(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The parts along a new dimension; a single one without a copy, which of the sums of groups would be large."""
    return parts[0].unsqueeze(dim) if len(parts) == 1 else torch.stack(list(parts), dim)


def _columns(sites: tuple[str, ...], widths: Mapping[str, int], most: int) -> list[tuple[slice, slice]]:
    """Some sites after the other, of at most so many columns or one site: which, and their columns among all."""
    parts: list[tuple[slice, slice]] = []
    last = 0
    for index, site in enumerate(sites):
        start = last
        last += widths[site]
        if parts and last - parts[-1][1].start <= most:
            parts[-1] = slice(parts[-1][0].start, index + 1), slice(parts[-1][1].start, last)
        else:
            parts.append((slice(index, index + 1), slice(start, last)))
    return parts


def _place(site: str, sites: tuple[str, ...], widths: Mapping[str, int]) -> tuple[int, slice]:
    """Which of the sites it is, and its columns where they stand side by side."""
    index = sites.index(site)
    start = sum(widths[before] for before in sites[:index])
    return index, slice(start, start + widths[site])
