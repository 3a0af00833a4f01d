"""Samples of a few whole sequences of one model, and what pairs of sites need of each site alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.moments.sequences import (
    Sequences,
    sequence_sums,
    squares_of_grams,
    squares_of_products,
    within_grams,
)


@dataclass(frozen=True)
class Chunk:
    """Samples of a few whole sequences, which form consecutive units of equal size.

    Attributes:
        samples: site -> samples without their offset (units, n, p).
        norms: site -> their squared norms (units, n).
        outlier_rows: site -> which of them are outliers (units, n).
        units: which units.
        roll: samples of the longest sequence of these units, by which the null rolls them.
        rolled: whether samples are rolled by that against those of other chunks. With sequences of equal length, each
            then takes the place of the one before it in its unit.
        members: the sequences that the samples form.
        sequences: the same where measures need sums over sequences; None if not, or if each sequence is one sample.
        sums: site -> the sum of each sequence (sequences, p).
        weights: site -> the product of each sample with the sum of its sequence (units, n).
        grams: site -> the products of the samples of each sequence, as far as they were needed.
        is_deranged: whether the samples have another order than those of the side.
    """

    samples: dict[str, Tensor]
    norms: dict[str, Tensor]
    outlier_rows: dict[str, Tensor]
    units: range
    roll: int
    members: Sequences
    rolled: bool = False
    sequences: Sequences | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)
    is_deranged: bool = False

    @property
    def count(self) -> int:
        """Number of samples of each unit."""
        return next((samples.shape[1] for samples in self.samples.values()), 0)

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

    def norms_of(self, sites: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return squared norms at some sites (units, n, sites), and which samples are outliers at any (units, n)."""
        norms = torch.stack([self.norms[site] for site in sites], -1)
        outlier_rows = torch.stack([self.outlier_rows[site] for site in sites], -1).any(-1)
        return self._in_order(norms), self._in_order(outlier_rows)

    def weights_of(self, sites: Sequence[str]) -> Tensor:
        """Return the products of samples with the sums of their sequences (units, n, sites)."""
        return self._in_order(torch.stack([self.weights[site] for site in sites], -1))

    def sums_of(self, site: str) -> Tensor:
        """Return the sum of each sequence at a site (sequences, p)."""
        return self._sequences_in_order(self.sums[site])

    def gram(self, site: str) -> Tensor:
        """Return the products of the samples of each sequence with each other at a site (sequences, length, length)."""
        if site not in self.grams:
            parts = self.samples[site], self.norms[site], self.outlier_rows[site]
            self.grams[site] = within_grams(*parts, self.members)
        return self._sequences_in_order(self.grams[site])

    def _sequences_in_order(self, values: Tensor) -> Tensor:
        """Return values per sequence in the order in which they meet the other model's."""
        if not self.rolled:
            return values
        return values.unflatten(0, (len(self.units), -1)).roll(-1, 1).flatten(0, 1)

    def _in_order(self, values: Tensor) -> Tensor:
        """Return values per sample (units, n, ...) in the order in which they meet the other model's."""
        return values.roll(-self.roll, 1) if self.rolled else values

    def deranged(self) -> "Chunk":
        """Return the chunk, rolled within each unit until no sample meets one of the same sequence.

        Derange the first of two sides: its samples are copied anyway.
        """
        if self.count < 2 * self.roll:
            raise ValueError(
                "the null rolls sequences against each other and needs at least two per unit, none with more than half "
                f"of its samples, found one with {self.roll} of {self.count}; pass more sequences or a smaller n_units"
            )
        if self.sequences is None or self.sequences.mean is None:
            return replace(self, rolled=True, is_deranged=True)
        # The rolled samples fall into sequences of other lengths: those of the other model, which they meet.
        samples, norms, outlier_rows = (
            {site: values.roll(-self.roll, 1) for site, values in by_site.items()}
            for by_site in (self.samples, self.norms, self.outlier_rows)
        )
        return with_sequences(
            Chunk(samples, norms, outlier_rows, self.units, self.roll, self.members, is_deranged=True), self.sequences
        )


def with_sequences(chunk: Chunk, sequences: Sequences | None) -> Chunk:
    """Return a chunk with the sums of its sequences, and the products of its samples with them."""
    if sequences is None:
        return chunk
    parts = {site: sequence_sums(values, sequences) for site, values in chunk.samples.items()}
    sums, weights = ({site: part[index] for site, part in parts.items()} for index in (0, 1))
    return replace(chunk, sequences=sequences, sums=sums, weights=weights, grams={})


def squares_of(
    x: Chunk, sites: Sequence[str], y: Chunk, partners: Sequence[str]
) -> Float[Tensor, "sequences sites partners"]:
    """Return |X_s'Y_s|^2 of each sequence, for all sites of one chunk with all partners in another."""
    widths = [[chunk.samples[site].shape[-1] for site in names] for chunk, names in ((x, sites), (y, partners))]
    if x.members.prefer_grams(*map(sum, widths)):
        return squares_of_grams([x.gram(site) for site in sites], [y.gram(site) for site in partners])
    rows, outlier_rows = x.members.rows, x.norms_of(sites)[1] | y.norms_of(partners)[1]
    parts = rows(x.side_by_side(sites)), rows(y.side_by_side(partners)), rows(outlier_rows)
    return squares_of_products(*parts, *widths)
