"""Samples of two models that are read again once their sums are known, for what each sample adds to a value."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.moments.chunk import Chunk, squares_of
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.products import full_float32, sum_device
from dissimilarity.moments.sequences import Sequences, sequence_sums

Again = Callable[[Sequence[str]], Iterable[Chunk]]
"""Yields the chunks of one side again, with the samples of some sites."""


@dataclass(frozen=True)
class Part:
    """Samples of a few whole sequences at one site of x and at some sites of y, which have one width.

    Attributes:
        x: samples of x.
        y: the same samples at each site of y.
        outlier_rows: which of them are multiplied in float64.
        members: the sequences that they form.
        chunks: the chunks that they come from.
        site: the site of x.
        partners: the sites of y.
        number: which part this is.
    """

    x: Float[Tensor, "n p"]
    y: Float[Tensor, "n pairs q"]
    outlier_rows: Bool[Tensor, " n"]
    members: Sequences
    chunks: tuple[Chunk, Chunk]
    site: str
    partners: Sequence[str]
    number: int = 0

    @property
    def sequence(self) -> Int[Tensor, " n"]:
        """The place of each sample's sequence among all."""
        return self.members.of_samples.to(sum_device(self.x.device))

    def norms(self) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n pairs"]]:
        """Return the squared norms of both sides."""
        x, y = self.chunks
        return x.norms_of([self.site])[0].flatten(0, 1), y.norms_of(self.partners)[0].flatten(0, 1)

    def bilinear(self, matrices: Float[Tensor, "pairs p q"]) -> Float[Tensor, "n pairs"]:
        """Return x_i' G y_i of each sample, by one product for all pairs."""
        return _bilinear(self.x, matrices, self.y, self.outlier_rows)

    def quadratic_x(self, matrices: Float[Tensor, "pairs p p"]) -> Float[Tensor, "n pairs"]:
        """Return x_i' G x_i of each sample."""
        return _bilinear(self.x, matrices, self.x[:, None], self.outlier_rows)

    def quadratic_y(self, matrices: Float[Tensor, "pairs q q"]) -> Float[Tensor, "n pairs"]:
        """Return y_i' G y_i of each sample."""
        parts = zip(self.y.unbind(1), matrices, strict=True)
        return torch.cat([_bilinear(y, matrix[None], y[:, None], self.outlier_rows) for y, matrix in parts], 1)

    def along_x(self, vectors: Float[Tensor, "pairs p"]) -> Float[Tensor, "n pairs"]:
        """Return x_i . g of each sample."""
        return _as_float64(self.x) @ vectors.mT

    def along_y(self, vectors: Float[Tensor, "pairs q"]) -> Float[Tensor, "n pairs"]:
        """Return y_i . g of each sample."""
        y = _as_float64(self.y)
        return torch.stack([y[:, pair] @ vector for pair, vector in enumerate(vectors)], 1)

    def own_sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a_s and b_s of the sequences, and each sample's products with them, k and l.

        Shapes are (sequences, 1, p), (sequences, pairs, q), (n, 1) and (n, pairs).
        """
        a, k = self._own_sums(self.chunks[0], [self.site])
        b, l = self._own_sums(self.chunks[1], self.partners)  # noqa: E741
        return a, b, k, l

    def squares(self) -> Float[Tensor, "sequences pairs"]:
        """Return |X_s'Y_s|^2 of each sequence."""
        if self.members.single:
            a, b = self.norms()
            return a * b
        x, y = self.chunks
        return squares_of(x, [self.site], y, self.partners)[:, 0]

    def grams(
        self,
    ) -> tuple[Float[Tensor, "sequences 1 length length"], Float[Tensor, "sequences pairs length length"]]:
        """Return the products of the samples of each sequence with each other, on both sides."""
        if self.members.single:
            a, b = self.norms()
            return a[..., None, None], b[..., None, None]
        x, y = self.chunks
        both = (x.gram(self.site)[:, None], torch.stack([y.gram(name) for name in self.partners], 1))
        return both[0].double(), both[1].double()

    def of_sequences(self, values: Float[Tensor, "n pairs"]) -> Float[Tensor, "sequences pairs"]:
        """Return the sum over the samples of each sequence."""
        sums = values.new_zeros((len(self.members.lengths), *values.shape[1:]))
        return sums.index_add_(0, self.sequence - self.members.first, values)

    def _own_sums(self, chunk: Chunk, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self.members.single:
            samples = torch.stack([chunk.side_by_side([name]).flatten(0, 1) for name in names], 1)
            return _as_float64(samples), chunk.norms_of(names)[0].flatten(0, 1)
        if chunk.sums:
            sums = torch.stack([chunk.sums_of(name) for name in names], 1)
            return sums, chunk.weights_of(names).flatten(0, 1)
        both = [sequence_sums(chunk.side_by_side([name]), self.members) for name in names]
        return torch.stack([sums for sums, _ in both], 1), torch.stack([weights.flatten() for _, weights in both], 1)


@dataclass(frozen=True)
class PairedSamples:
    """Samples at a site of x and at some sites of y of one width, read again chunk by chunk.

    Attributes:
        x: yields the chunks of x.
        y: yields those of y.
        site: the site of x.
        partners: the sites of y.
        count: number of sequences of the probe set.
    """

    x: Again
    y: Again
    site: str
    partners: Sequence[str]
    count: int

    def parts(self, single: bool = False) -> Iterator[Part]:
        """Yield the samples chunk by chunk; with ``single`` as if each of them were a sequence."""
        first = 0
        for number, (x, y) in enumerate(zip(self.x([self.site]), self.y(self.partners), strict=True)):
            samples = [y.side_by_side([name]).flatten(0, 1) for name in self.partners]
            stacked = samples[0][:, None] if len(samples) == 1 else torch.stack(samples, 1)
            outlier_rows = x.norms_of([self.site])[1] | y.norms_of(self.partners)[1]
            own = x.side_by_side([self.site]).flatten(0, 1)
            members = Sequences(first, first + len(own), torch.ones(len(own), dtype=torch.int64), single=True)
            first += len(own)
            parts = own, stacked, outlier_rows.flatten(), members if single else y.members
            yield Part(*parts, (x, y), self.site, self.partners, number)

    def per_sequence(self, terms: Callable[[Part], Moments]) -> dict[str, Float[Tensor, "sequences pairs"]]:
        """Return the sums over the samples of each sequence.

        Args:
            terms: what each sample of a part adds to each sum, (n, pairs), or each sequence, (sequences, pairs) if the
                name ends in ``_s``.
        """
        sums: Moments = {}
        for part in self.parts():
            first = part.members.first
            for name, values in terms(part).items():
                values = values if name.endswith("_s") else part.of_sequences(values)
                if name not in sums:
                    sums[name] = values.new_zeros(self.count, *values.shape[1:])
                sums[name][first : first + len(values)] += values
        return sums


def _as_float64(samples: Tensor) -> Tensor:
    return samples.to(sum_device(samples.device)).double()


def _bilinear(
    x: Float[Tensor, "n p"],
    matrices: Float[Tensor, "pairs p q"],
    y: Float[Tensor, "n _ q"],
    outlier_rows: Bool[Tensor, " n"],
) -> Float[Tensor, "n pairs"]:
    """Return x_i' G y_i in the precision of the samples, that of outliers in float64."""
    device = sum_device(x.device)

    def product(x: Tensor, matrices: Tensor, y: Tensor) -> Tensor:
        wide = matrices.movedim(0, 1).flatten(1)
        return ((x @ wide).unflatten(1, (len(matrices), -1)) * y).sum(-1)

    if x.dtype == torch.float64 == y.dtype:
        return product(x, matrices, y)
    # Scaled, because numbers of derivatives may leave the range of float32.
    size = matrices.abs().amax((1, 2), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    with full_float32(x.device):
        values = product(x.float(), (matrices / size).to(x.device, torch.float32), y.float()).to(device).double()
    values *= size[:, 0, 0]
    rows = outlier_rows.nonzero()[:, 0]
    if len(rows):
        values[rows.to(device)] = product(_as_float64(x[rows]), matrices, _as_float64(y[rows]))
    return values
