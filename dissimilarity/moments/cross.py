"""The sums over pairs of sites of two models, for any number of pairs at once, from chunks of both sides."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.moments.chunk import Chunk, squares_of
from dissimilarity.moments.halves import as_first_half
from dissimilarity.moments.pair import SMALL, Moments, check_range, cross_moments, join, one_pair, span_coordinates
from dissimilarity.moments.running import RunningSums
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SequenceLengths

SitePair = tuple[str, str]
"""A site of x and a site of y."""

Block = tuple[tuple[str, ...], tuple[str, ...]]
"""Sites of x that are all compared with the same sites of y."""

X_COLUMNS = 1536
"""Columns of x in one product: enough for it to be fast, few enough that a copy stays small."""

Y_COLUMNS = 256
"""Columns of y up to which partners are put side by side: narrow products are slow, and their copies are small."""


class Cross:
    """Sums over pairs of sites of two sides.

    Sites with the same partners are put side by side, a few at a time, and so are narrow partners.

    Args:
        pairs: (site of x, site of y).
        n_units: number of units, or 0 where no error bar is needed.
        sync, moments, halves: as in ``Side``.
        fast: whether the sums serve a null, as for ``cross_moments``.
    """

    def __init__(
        self,
        pairs: Sequence[SitePair],
        n_units: int = 0,
        sync: bool = False,
        moments: bool = True,
        halves: bool = True,
        fast: bool = False,
    ) -> None:
        self.pairs, self.sync, self.moments, self.fast = list(pairs), sync, moments, fast
        partners: dict[str, tuple[str, ...]] = {}
        for site, partner in self.pairs:
            partners[site] = (*partners.get(site, ()), partner)
        sites: dict[tuple[str, ...], tuple[str, ...]] = {}
        for site, site_partners in partners.items():
            sites[site_partners] = (*sites.get(site_partners, ()), site)
        self.blocks: list[Block] = [(block_sites, block_partners) for block_partners, block_sites in sites.items()]
        self._block = {site: index for index, (block_sites, _) in enumerate(self.blocks) for site in block_sites}
        self.sums = RunningSums(n_units, halves)
        self.sequence_sums, self.sequence_squares = RunningSums(0), RunningSums(0)
        self._widths: tuple[dict[str, int], dict[str, int]] = ({}, {})

    def add(self, x: Chunk, y: Chunk) -> None:
        """Add the samples of two chunks of the same sequences."""
        if x.units != y.units:
            raise ValueError(f"expected chunks of the same sequences, found units {x.units} and {y.units}")
        positions = [1 + int(chunk.labels[1].max()) for chunk in (x, y) if len(chunk.labels[1])]
        if len(set(positions)) > 1:
            raise ValueError(
                f"expected the same number of positions in both models, found {positions[0]} and {positions[1]}"
            )
        counts = [samples.shape[1] for chunk in (x, y) for samples in list(chunk.samples.values())[:1]]
        if len(set(counts)) > 1:
            raise ValueError(
                f"expected chunks of the same sequences, found {counts[0]} and {counts[1]} samples per unit"
            )
        if not self.moments:
            return
        for widths, chunk in zip(self._widths, (x, y), strict=True):
            widths |= {site: samples.shape[-1] for site, samples in chunk.samples.items()}
        for index in range(len(self.blocks)):
            self._add_block(index, x, y)

    def _add_block(self, index: int, x: Chunk, y: Chunk) -> None:
        sites, partners = self.blocks[index]
        x_parts = _columns(sites, self._widths[0], X_COLUMNS)
        y_parts = _columns(partners, self._widths[1], Y_COLUMNS)
        a, b = x.norms_of(sites), y.norms_of(partners)
        outlier_rows = x.outlier_rows_of(sites) | y.outlier_rows_of(partners)
        sequences = y.sequences
        if sequences is not None:
            a = torch.cat([a, sequences.with_powers(x.weights_of(sites))], -1)
            b = torch.cat([b, sequences.with_powers(y.weights_of(partners))], -1)
        xs = (self._as_summed(x.side_by_side(sites[part])) for part, _ in x_parts)
        y_samples = [y.side_by_side(partners[part]) for part, _ in y_parts]
        ys = [self._as_summed(samples) for samples in y_samples]
        a, b, outlier_rows = (self._as_summed(values) for values in (a, b, outlier_rows))
        ends = {"x": x_parts[-1][1].stop, "y": y_parts[-1][1].stop, "a": a.shape[-1], "b": b.shape[-1]}

        def add(key: str, row: int, column: int, total: Tensor, per_unit: Tensor) -> None:
            places = {"x": x_parts[row][1], "y": y_parts[column][1], "a": slice(None), "b": slice(None)}
            whole, place = (ends[key[0]], ends[key[1]]), (places[key[0]], places[key[1]])
            self.sums.add(str(index), key, total, per_unit, x.units, whole, place)

        for part in cross_moments(xs, a, ys, b, outlier_rows, self.fast):
            add(*part)
        if sequences is None:
            return
        squares = squares_of(x, sites, y, partners)
        for key, total, per_unit in sequences.squares("gh", squares, len(ys[0])):
            self.sums.add(str(index), key, total, per_unit, x.units)
        if not self.sums.n_units:
            whole = sequences.count, *squares.shape[1:]
            self.sequence_squares.add(str(index), "gh_s", squares, squares, x.units, whole, (sequences.places,))
        if sequences.mean is not None:
            for row, (part, _) in enumerate(x_parts):
                samples = self._as_summed(x.side_by_side(sites[part]))
                for column, others in enumerate(ys):
                    for key, total, per_unit in sequences.products("xy", samples, others, outlier_rows):
                        add(key, row, column, total, per_unit)
        if x.is_deranged:
            for site in sites:
                u = x.sums_of(site)
                whole = sequences.count, u.shape[1]
                self.sequence_sums.add(site, "u", u, u, x.units, whole, (sequences.places,))

    def _as_summed(self, values: Tensor) -> Tensor:
        """Return values per sample (units, n, ...), as one unit where no sums of single units are needed."""
        return values if self.sums.n_units or self.sums.halves else values.flatten(0, 1)[None]

    def close(self) -> "Cross":
        """End the accumulation: add up the sums of all processes."""
        if self.sync:
            self.sums.all_reduce()
            self.sequence_sums.all_reduce()
            self.sequence_squares.all_reduce()
        return self

    def width(self, partner: str) -> int:
        """Return the width of a site of y."""
        return self._widths[1][partner]

    def sums_of(self, site: str, partners: Sequence[str]) -> tuple[Moments, Moments]:
        """Return the cross sums of a site with partners of one width: over all samples (partners, ...), and per unit.

        The latter are (units, partners, ...), and empty without units.
        """
        totals = [self._of_pair(self.sums.totals, site, partner, totals=True) for partner in partners]
        for pair, partner in zip(totals, partners, strict=True) if self.sums.first_half else ():
            pair |= as_first_half(self._of_pair(self.sums.first_half, site, partner))
        stacked_totals = {key: stacked([part[key] for part in totals]) for key in totals[0]}
        for key, sums in self.sequence_sums.totals.get(site, {}).items():
            stacked_totals[key] = sums.expand(len(partners), *sums.shape)
        if not self.sums.n_units:
            return stacked_totals, {}
        units = [self._of_pair(self.sums.units, site, partner) for partner in partners]
        return stacked_totals, {key: stacked([part[key] for part in units], 1) for key in units[0]}

    def _of_pair(self, sums: Mapping[str, Moments], site: str, partner: str, totals: bool = False) -> Moments:
        index = self._block[site]
        sites, partners = self.blocks[index]
        row, rows = _place(site, sites, self._widths[0])
        column, columns = _place(partner, partners, self._widths[1])
        of_block = {**sums[str(index)], **(self.sequence_squares.totals.get(str(index), {}) if totals else {})}
        return one_pair(of_block, rows, row, columns, column, len(sites), len(partners))


def stacked(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Stack parts along a new dimension; a single one without a copy, which for sums per unit would be large."""
    return parts[0].unsqueeze(dim) if len(parts) == 1 else torch.stack(list(parts), dim)


def _columns(sites: tuple[str, ...], widths: Mapping[str, int], most: int) -> list[tuple[slice, slice]]:
    """Divide sites into parts of at most this many columns or one site: which sites, and their columns among all."""
    parts: list[tuple[slice, slice]] = []
    stop = 0
    for index, site in enumerate(sites):
        start = stop
        stop += widths[site]
        if parts and stop - parts[-1][1].start <= most:
            parts[-1] = slice(parts[-1][0].start, index + 1), slice(parts[-1][1].start, stop)
        else:
            parts.append((slice(index, index + 1), slice(start, stop)))
    return parts


def _place(site: str, sites: tuple[str, ...], widths: Mapping[str, int]) -> tuple[int, slice]:
    """Return the index of a site among those side by side, and its columns."""
    index = sites.index(site)
    start = sum(widths[before] for before in sites[:index])
    return index, slice(start, start + widths[site])


def moments_of_sequences(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], sequence: Int[Tensor, " n"]) -> Moments:
    """Return the moments of two sides of the same samples, with sums over sequences.

    Args:
        x: samples in one representation.
        y: the same samples in the other.
        sequence: the sequence of each sample, integers from 0, in any order.
    """
    order, counts = sequence.argsort(stable=True), sequence.bincount()
    lengths = SequenceLengths(torch.zeros_like(counts), counts)
    cross, sides, chunks = Cross([("x", "y")]), [], []
    for site, samples in (("x", x), ("y", y)):
        samples = span_coordinates(samples) if len(samples) < samples.shape[1] else samples
        samples = samples.double() if samples.numel() <= SMALL else samples
        sides.append(Side(lengths))
        chunks.append(sides[-1].add({site: samples[order.to(samples.device)][None]}, range(1)))
        check_range(sides[-1].totals(site), samples.dtype)
    cross.add(*chunks)
    first, second = (side.totals(site) for side, site in zip(sides, "xy", strict=True))
    totals = {key: value[0] for key, value in cross.sums_of("x", ["y"])[0].items()}
    return join(sides[0].counts()[0], first, second, totals)
