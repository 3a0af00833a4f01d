"""Samples of a few whole sequences of one model, and what pairs of sites need of each site alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.moments.sequences import (
    Sequences,
    sequence_sums,
    squares_of_grams,
    squares_of_products,
    within_grams,
)
from dissimilarity.probe.rearrangement import exchanged, rearranged


@dataclass(frozen=True)
class Chunk:
    """Samples of a few whole sequences, which form consecutive units of equal size.

    Attributes:
        samples: site -> samples without their offset (units, n, p).
        norms: site -> their squared norms (units, n).
        outlier_rows: site -> which of them are outliers (units, n).
        units: which units.
        labels: the sequence of each sample and its position in it, over all units (units * n).
        order: which sample takes the place of each one where they meet those of other chunks; None for its own.
        members: the sequences that the samples form.
        sequences: the same where measures need sums over sequences; None if not, or if each sequence is one sample.
        sums: site -> the sum of each sequence (sequences, p).
        weights: site -> the product of each sample with the sum of its sequence (units, n).
        grams: sites -> the products of the samples of each sequence there, as far as they were needed.
        is_deranged: whether the samples have another order than those of the side.
    """

    samples: dict[str, Tensor]
    norms: dict[str, Tensor]
    outlier_rows: dict[str, Tensor]
    units: range
    labels: tuple[Tensor, Tensor]
    members: Sequences
    order: Tensor | None = None
    sequences: Sequences | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    grams: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    is_deranged: bool = False

    @property
    def count(self) -> int:
        """Number of samples of each unit."""
        return next((samples.shape[1] for samples in self.samples.values()), 0)

    @property
    def derived_bytes(self) -> int:
        """Size of norms, sums, weights and labels, without samples and their products."""
        parts = (self.norms, self.outlier_rows, self.sums, self.weights)
        return sum(values.nbytes for values in (*self.labels, *(value for part in parts for value in part.values())))

    def side_by_side(self, sites: Sequence[str]) -> Tensor:
        """Return the samples of some sites side by side (units, n, columns); for one site without a copy."""
        parts = [self.samples[site] for site in sites]
        if len(parts) == 1:
            return self._in_order(parts[0])
        # One site after the other: rolling all at once would be a second copy of the largest tensor of a batch.
        widths = [part.shape[-1] for part in parts]
        joined = parts[0].new_empty((*parts[0].shape[:-1], sum(widths)))
        for part, columns in zip(parts, joined.split(widths, -1), strict=True):
            columns.copy_(self._in_order(part))
        return joined

    def norms_of(self, sites: Sequence[str]) -> Tensor:
        """Return the squared norms of the samples at some sites (units, n, sites)."""
        return self._in_order(torch.stack([self.norms[site] for site in sites], -1))

    def outlier_rows_of(self, sites: Sequence[str]) -> Tensor:
        """Return which samples are outliers at any of some sites (units, n)."""
        return self._in_order(torch.stack([self.outlier_rows[site] for site in sites], -1).any(-1))

    def weights_of(self, sites: Sequence[str]) -> Tensor:
        """Return the products of samples with the sums of their sequences (units, n, sites)."""
        return self._in_order(torch.stack([self.weights[site] for site in sites], -1))

    def sums_of(self, site: str) -> Tensor:
        """Return the sum of each sequence at a site (sequences, p)."""
        return self._sequences_in_order(self.sums[site])

    def grams_of(self, sites: Sequence[str]) -> Float[Tensor, "sequences sites length length"]:
        """Return the products of the samples of each sequence with each other at some sites."""
        for site in sites:
            if (site,) not in self.grams:
                parts = self.samples[site], self.norms[site], self.outlier_rows[site]
                self.grams[site,] = within_grams(*parts, self.members)[:, None]
        if (names := tuple(sites)) not in self.grams:
            self.grams[names] = torch.cat([self.grams[site,] for site in sites], 1)
        return self._sequences_in_order(self.grams[names])

    def _sequences_in_order(self, values: Tensor) -> Tensor:
        """Return values per sequence in the order in which they meet the other model's."""
        if self.order is None:
            return values
        length = len(self.order) // len(values)
        return values.index_select(0, (self.order[::length] // length).to(values.device))

    def _in_order(self, values: Tensor) -> Tensor:
        """Return values per sample (units, n, ...) in the order in which they meet the other model's."""
        if self.order is None:
            return values
        return values.flatten(0, 1).index_select(0, self.order.to(values.device)).view_as(values)

    def deranged(self) -> "Chunk":
        """Return the chunk, rearranged within each unit so that no sample meets one of the same sequence.

        Derange the first of two sides: its samples are copied anyway.

        Raises:
            ValueError: one sequence has more than half of the samples.
        """
        orders = []
        for start, *labels in zip(
            range(0, len(self.labels[0]), self.count),
            *(labels.split(self.count) for labels in self.labels),
            strict=True,
        ):
            order = rearranged(*labels)
            if order is None:
                raise ValueError(
                    "the null rearranges sequences and needs at least two per unit, none with more than half of its "
                    f"samples, found one with {int(labels[0].bincount().max())} of {self.count}; pass more sequences "
                    "or a smaller n_units"
                )
            orders.append(order + start)
        return self.rearranged(torch.cat(orders))

    def circled(self, place: Int[Tensor, " sequences"]) -> Int[Tensor, " all"]:
        """Return the order of a chunk of all sequences along a circle of them.

        Raises:
            ValueError: one sequence has more than half of the samples.
        """
        order = rearranged(*self.labels, place)
        if order is None:
            raise ValueError("the null rearranges sequences, and one has more than half of all samples; pass more")
        return order

    def exchanged(self, taken: Int[Tensor, " sequences"]) -> Int[Tensor, " all"]:
        """Return the order of a chunk of all sequences under a permutation of them."""
        return exchanged(*self.labels, taken)

    def meeting(self, other: "Chunk", start: int, order: Int[Tensor, " all"]) -> "Chunk":
        """Return the samples of this chunk of all sequences that meet those of a chunk of the other model.

        Args:
            other: the other chunk.
            start: number of samples before it.
            order: which sample takes the place of each one.
        """
        index = order[start : start + len(other.labels[0])]
        samples, norms, outlier_rows = (
            {
                site: values[0].index_select(0, index.to(values.device)).unflatten(0, (len(other.units), -1))
                for site, values in by_site.items()
            }
            for by_site in (self.samples, self.norms, self.outlier_rows)
        )
        chunk = Chunk(samples, norms, outlier_rows, other.units, other.labels, other.members, is_deranged=True)
        return with_sequences(chunk, other.sequences)

    def to(self, device: torch.device) -> "Chunk":
        """Return the chunk on a device."""
        names = ("samples", "norms", "outlier_rows", "sums", "weights", "grams")
        moved = {name: {site: values.to(device) for site, values in getattr(self, name).items()} for name in names}
        return replace(self, **moved)

    def rearranged(self, order: Int[Tensor, " all"]) -> "Chunk":
        """Return the chunk with its samples in another order, over all of its units."""
        if self.sequences is None or self.moves_whole(order):
            return replace(self, order=order, is_deranged=True)
        # The samples fall into other sequences: those of the other model, which they meet.
        samples, norms, outlier_rows = (
            {site: replace(self, order=order)._in_order(values) for site, values in by_site.items()}
            for by_site in (self.samples, self.norms, self.outlier_rows)
        )
        chunk = Chunk(samples, norms, outlier_rows, self.units, self.labels, self.members, is_deranged=True)
        return with_sequences(chunk, self.sequences)

    def moves_whole(self, order: Int[Tensor, " all"]) -> bool:
        """Return whether an order gives every sequence the place of one other."""
        assert self.sequences is not None
        if self.sequences.mean is not None:
            return False
        order = order.view(len(self.sequences.lengths), -1)
        length = order.shape[1]
        return not bool((order[:, 0] % length).any() or (order - order[:, :1] - torch.arange(length)).any())


def as_one(chunks: Sequence[Chunk], sites: Sequence[str]) -> Chunk:
    """Return consecutive chunks of the whole probe set, at some sites, as one chunk of a single unit."""

    def flat(name: str, per_sample: bool = True) -> dict[str, Tensor]:
        parts = [getattr(chunk, name) for chunk in chunks]
        if not all(site in part for part in parts for site in sites):
            return {}
        if per_sample:
            return {site: torch.cat([part[site].flatten(0, 1) for part in parts])[None] for site in sites}
        return {site: torch.cat([part[site] for part in parts]) for site in sites}

    labels = tuple(torch.cat([chunk.labels[index] for chunk in chunks]) for index in (0, 1))
    first = chunks[0].members
    members = replace(first, first=0, lengths=torch.cat([chunk.members.lengths for chunk in chunks]))
    has_sums = all(chunk.sequences is not None for chunk in chunks)
    return Chunk(
        *(flat(name) for name in ("samples", "norms", "outlier_rows")),
        units=range(1),
        labels=(labels[0], labels[1]),
        members=members,
        sequences=members if has_sums else None,
        sums=flat("sums", per_sample=False),
        weights=flat("weights"),
    )


def with_sequences(chunk: Chunk, sequences: Sequences | None) -> Chunk:
    """Return a chunk with the sums of its sequences, and the products of its samples with them."""
    if sequences is None:
        return chunk
    parts = {site: sequence_sums(values, sequences) for site, values in chunk.samples.items()}
    sums, weights = ({site: part[index] for site, part in parts.items()} for index in (0, 1))
    return replace(chunk, sequences=sequences, sums=sums, weights=weights, grams={})


def squares_of(
    x: Chunk, sites: Sequence[str], y: Chunk, partners: Sequence[str], grams: bool | None = None
) -> Float[Tensor, "sequences sites partners"]:
    """Return |X_s'Y_s|^2 of each sequence, for all sites of one chunk with all partners in another.

    Args:
        x: the first chunk.
        sites: its sites.
        y: the second chunk.
        partners: its sites.
        grams: whether they follow from products of samples with each other, which chunks keep, or from those of columns
            with columns; by default from what takes less work for these sites alone.
    """
    widths = [[chunk.samples[site].shape[-1] for site in names] for chunk, names in ((x, sites), (y, partners))]
    columns, others = map(sum, widths)
    if x.members.prefer_grams(columns + others, columns * others) if grams is None else grams:
        return squares_of_grams(x.grams_of(sites), y.grams_of(partners))
    rows, outlier_rows = x.members.rows, x.outlier_rows_of(sites) | y.outlier_rows_of(partners)
    parts = rows(x.side_by_side(sites)), rows(y.side_by_side(partners)), rows(outlier_rows)
    return squares_of_products(*parts, *widths)
