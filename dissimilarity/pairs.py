"""Two models' sides of a comparison, and the sums over pairs of their sites.

A ``Side`` holds what measures need of one model alone, a ``Cross`` what they need of two, for any number of site
pairs at once. Both grow by chunks: the activations of a few whole sequences that belong to one jackknife group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.checks import count_not_finite
from dissimilarity.moments import (
    Moments,
    accumulate,
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
from dissimilarity.sampling import sampled_positions

Pair = tuple[str, str]


@dataclass(frozen=True)
class Chunk:
    """Some whole sequences that make up consecutive jackknife groups in equal parts.

    Attributes:
        rows: site -> shifted rows (groups, n, p).
        norms: site -> their squared norms (groups, n).
        apart: site -> which of them are heavy (groups, n).
        groups: which groups.
        sequences: how many sequences there are of each group.
        rolled: whether each sequence stands in for the one before it in its group, when sites are put side by side.
    """

    rows: dict[str, Tensor]
    norms: dict[str, Tensor]
    apart: dict[str, Tensor]
    groups: range
    sequences: int
    rolled: bool = False

    def beside(self, sites: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of several sites side by side, the norms of each, and which rows are heavy at any of them."""
        norms, apart = (torch.stack([of[site] for site in sites], -1) for of in (self.norms, self.apart))
        rows = self._rows_beside([self.rows[site] for site in sites])
        return rows, self._in_place(norms), self._in_place(apart.any(-1))

    def _rows_beside(self, rows: Sequence[Tensor]) -> Tensor:
        if len(rows) == 1:
            return self._in_place(rows[0])
        # One site after the other: all rolled at once would be a second copy of the largest thing in a batch.
        widths = [part.shape[-1] for part in rows]
        whole = rows[0].new_empty((*rows[0].shape[:-1], sum(widths)))
        for part, columns in zip(rows, whole.split(widths, -1), strict=True):
            columns.copy_(self._in_place(part))
        return whole

    def _in_place(self, of: Tensor) -> Tensor:
        """What is known of each row (groups, n, ...), in the order in which its sequences are to be met."""
        return of.unflatten(1, (self.sequences, -1)).roll(1, 1).flatten(1, 2) if self.rolled else of

    def deranged(self) -> "Chunk":
        """The same chunk with each sequence in the place of another of its group, so that none meets itself."""
        if self.sequences < 2:
            raise ValueError(
                "the null shifts sequences against each other and needs at least two in a group, found one; "
                "raise the number of sequences or lower the number of groups"
            )

        return replace(self, rolled=True)


class Sums:
    """Running sums by site: exact totals in float64, and float32 sums per group that serve the error bars.

    Args:
        groups: number of jackknife groups, or 0 where no error bar is wanted.
    """

    def __init__(self, groups: int) -> None:
        self.count = groups
        self.totals: dict[str, Moments] = {}
        self.groups: dict[str, Moments] = {}

    def add(self, site: str, totals: Moments, by_group: Moments, groups: range) -> None:
        """Takes over the sums of one chunk, over all its rows and for each of its groups, or adds them."""
        if site not in self.totals:
            self.totals[site] = {key: value.double() for key, value in totals.items()}
            whole = len(groups) == self.count
            self.groups[site] = {
                key: value.float() if whole else value.new_zeros((self.count, *value.shape[1:]), dtype=torch.float32)
                for key, value in (by_group if self.count else {}).items()
            }
            if whole:
                return
        else:
            for key, value in totals.items():
                accumulate(self.totals[site][key], value)
        for key, value in self.groups[site].items():
            value[groups.start : groups.stop] += by_group[key]

    def add_part(
        self,
        site: str,
        shapes: Mapping[str, tuple[int, int]],
        place: Mapping[str, tuple[slice, slice]],
        totals: Moments,
        by_group: Moments,
        groups: range,
    ) -> None:
        """Adds what belongs in a part of the sums: key -> shape of the whole, and key -> its rows and columns."""
        if site not in self.totals:
            of = totals["xy"]
            self.totals[site] = {key: of.new_zeros(shape, dtype=torch.float64) for key, shape in shapes.items()}
            by_site = {key: of.new_zeros((self.count, *shape), dtype=torch.float32) for key, shape in shapes.items()}
            self.groups[site] = by_site if self.count else {}
        for key, value in totals.items():
            accumulate(self.totals[site][key][place[key]], value)
        for key, value in self.groups[site].items():
            value[groups.start : groups.stop, *place[key]] += by_group[key]

    def all_reduce(self) -> None:
        """Adds the sums of all processes."""
        for by_site in (self.totals, self.groups):
            for site in sorted(by_site):
                for value in by_site[site].values():
                    all_reduce(value)


class Side:
    """What the measures need of one model on the probe set.

    Args:
        groups: number of jackknife groups.
        samples: most rows, over all processes, that the sample measures see; 0 for none.
        of: number of sequences over all processes, out of which those are.
        sync: whether the processes of ``torch.distributed`` each hold a part of the probe set.
        moments: whether any measure reads sums.
        only_sampled: sites of which the sample measures alone see rows, and ``add`` gets no others.
    """

    def __init__(
        self,
        groups: int,
        samples: int = 0,
        of: int = 0,
        sync: bool = False,
        moments: bool = True,
        only_sampled: frozenset[str] = frozenset(),
    ) -> None:
        self.wanted, self.of, self.sync, self.moments = samples, of, sync, moments
        self.only_sampled = only_sampled
        self.sums = Sums(groups)
        self.n_groups = torch.zeros(groups, dtype=torch.float64)
        self.samples: dict[str, Tensor] = {}
        self.sample_groups = torch.zeros(0, dtype=torch.int64)
        self.sequences = 0
        self.prepared: dict[tuple[str, str], Any] = {}
        self.shift: dict[str, Tensor] = {}
        self._not_finite: dict[str, int] = {}
        self._sampled: dict[str, list[Tensor]] = {}
        self._sample_groups: list[Tensor] = []

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.n_groups.sum())

    def add(self, acts: Mapping[str, Tensor], groups: range) -> Chunk:
        """Adds the activations of some whole sequences.

        Args:
            acts: site -> (sequences, ..., d); everything between counts as positions.
            groups: the jackknife groups that these sequences make up, in equal parts.

        Returns:
            the chunk, for ``Cross.add``.
        """
        chunk = self.chunk(acts, groups)
        per_group = 0
        for site, rows in chunk.rows.items():
            per_group = rows.shape[1]
            self._not_finite[site] = self._not_finite.get(site, 0) + count_not_finite(rows)
            if self.moments:
                self.sums.add(site, *side_moments(rows, chunk.norms[site], chunk.apart[site]), groups)
        if self.wanted:
            for site, activation in acts.items():
                self._sampled.setdefault(site, []).append(self._sample(site, activation))
            sampled = len(next(iter(self._sampled.values()))[-1]) // len(groups)
            self._sample_groups.append(torch.tensor(groups).repeat_interleave(sampled))
        self.sequences += chunk.sequences * len(groups)
        self.n_groups[groups.start : groups.stop] += per_group
        return chunk

    def _sample(self, site: str, activation: Tensor) -> Tensor:
        """The rows of a chunk that the sample measures see; the same positions of every sequence."""
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
        sequences = len(next(iter(acts.values()))) // len(groups)
        for site, activation in acts.items():
            if site in self.only_sampled:
                continue
            x = as_rows(activation)
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
        return Chunk(rows, norms, apart, groups, sequences)

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
        self.sample_groups = torch.cat(self._sample_groups) if self._sample_groups else self.sample_groups
        self._sampled.clear()
        self._sample_groups.clear()
        if self.sync:
            self.sums.all_reduce()
            all_reduce(self.n_groups)
            mine = (
                {site: rows.cpu() for site, rows in self.samples.items()},
                self.sample_groups,
                self._not_finite,
                self.sequences,
            )
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            for site, rows in self.samples.items():
                self.samples[site] = torch.cat([part[0][site] for part in parts]).to(rows.device)
            self.sample_groups = torch.cat([part[1] for part in parts])
            self._not_finite = {site: sum(part[2][site] for part in parts) for site in self._not_finite}
            self.sequences = sum(part[3] for part in parts)
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

ABREAST = 1024
"""Columns side by side in one product: enough for it to be fast, few enough that copies stay small beside the sums."""

CROSS_SUMS = {
    "xy": ("width_x", "width_y"),
    "ab": ("sites", "partners"),
    "xb": ("width_x", "partners"),
    "ya": ("width_y", "sites"),
}
"""What the sums of a block run over, as ``cross_moments`` gives them."""


class Cross:
    """Sums over pairs of sites of two sides.

    Sites that have the same partners are put side by side, and so are the partners: one matrix product for a few.

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
        if (x.sequences, x.groups) != (y.sequences, y.groups):
            raise ValueError(f"expected chunks of the same sequences, found groups {x.groups} and {y.groups}")
        positions = [rows.shape[1] // side.sequences for side in (x, y) for rows in list(side.rows.values())[:1]]
        if len(set(positions)) > 1:
            raise ValueError(
                f"expected the same number of positions in both models, found {positions[0]} and {positions[1]}"
            )
        if not self.moments:
            return
        for widths, side in zip(self._widths, (x, y), strict=True):
            widths |= {site: rows.shape[-1] for site, rows in side.rows.items()}
        for index, (sites, partners) in enumerate(self.blocks):
            if all(len(list(_few(*of))) == 1 for of in zip((sites, partners), self._widths, strict=True)):
                self.sums.add(str(index), *self._products(x.beside(sites), y.beside(partners)), x.groups)
            else:
                self._add_in_parts(str(index), x, y)

    def _products(self, x: tuple[Tensor, Tensor, Tensor], y: tuple[Tensor, Tensor, Tensor]) -> tuple[Moments, Moments]:
        of = *x[:2], *y[:2], x[2] | y[2]
        if not self.sums.count:  # one product of all rows
            of = tuple(part.flatten(0, 1)[None] for part in of)
        return cross_moments(*of)

    def _add_in_parts(self, index: str, x: Chunk, y: Chunk) -> None:
        """Adds a block a few sites at a time, lest its rows and its products lie in memory beside its sums."""
        sites, partners = self.blocks[int(index)]
        width_x, width_y = (
            sum(widths[site] for site in of) for of, widths in zip((sites, partners), self._widths, strict=True)
        )
        ends = {"width_x": width_x, "width_y": width_y, "sites": len(sites), "partners": len(partners)}
        shapes = {key: (ends[first], ends[second]) for key, (first, second) in CROSS_SUMS.items()}
        for chosen_y, columns in _few(partners, self._widths[1]):
            few_y = y.beside(partners[chosen_y])
            for chosen_x, rows in _few(sites, self._widths[0]):
                here = {"width_x": rows, "width_y": columns, "sites": chosen_x, "partners": chosen_y}
                place = {key: (here[first], here[second]) for key, (first, second) in CROSS_SUMS.items()}
                sums = self._products(x.beside(sites[chosen_x]), few_y)
                self.sums.add_part(index, shapes, place, *sums, x.groups)

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


def _few(sites: tuple[str, ...], widths: Mapping[str, int]) -> Iterator[tuple[slice, slice]]:
    """Some sites after the other: which they are, and their columns where all stand side by side."""
    start = first = last = 0
    for index, site in enumerate(sites):
        if last > first and last + widths[site] - first > ABREAST:
            yield slice(start, index), slice(first, last)
            start, first = index, last
        last += widths[site]
    yield slice(start, len(sites)), slice(first, last)


def _place(site: str, sites: tuple[str, ...], widths: Mapping[str, int]) -> tuple[int, slice]:
    """Which of the sites it is, and its columns where they stand side by side."""
    index = sites.index(site)
    start = sum(widths[before] for before in sites[:index])
    return index, slice(start, start + widths[site])


def all_reduce(value: Tensor) -> None:
    """Sums a tensor over the processes in place, by way of the GPU where the backend knows no other."""
    if dist.get_backend() == "nccl" and value.device.type == "cpu":
        moved = value.cuda()
        dist.all_reduce(moved)
        value.copy_(moved)
    else:
        dist.all_reduce(value)
