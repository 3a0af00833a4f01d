"""The sums over pairs of sites of two models, for any number of pairs at once, from chunks of both sides."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.pair import Moments, cross_moments, one_pair
from dissimilarity.moments.running import Sums

Pair = tuple[str, str]

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
