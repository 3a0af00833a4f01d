"""Samples of two models that are read again once their sums are known, for what each sample adds to a value."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.moments.bilinear import Matrices, bilinear
from dissimilarity.moments.chunk import Chunk, squares_of
from dissimilarity.moments.products import sum_device
from dissimilarity.moments.sequences import Sequences
from dissimilarity.moments.stack import Stack

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
        number: which part this is.
        fast: whether products may be as imprecise as error bars allow.
        grams: whether squares follow from products of samples with each other; as in ``squares_of``.
    """

    x: Stack
    y: Stack
    outlier_rows: Bool[Tensor, " n"]
    members: Sequences
    number: int = 0
    fast: bool = False
    grams: bool | None = None

    @classmethod
    def of(
        cls, x: Stack, y: Stack, members: Sequences, number: int, fast: bool = False, grams: bool | None = None
    ) -> "Part":
        """Return the part of two stacks of the same samples."""
        return cls(x, y, x.outlier_rows | y.outlier_rows, members, number, fast, grams)

    @property
    def sequence(self) -> Int[Tensor, " n"]:
        """The place of each sample's sequence among all."""
        return self.members.of_samples.to(sum_device(self.x.device))

    def bilinear(self, matrices: Matrices) -> Float[Tensor, "n pairs"]:
        """Return x_i' G y_i of each sample, by one product for all pairs."""
        return bilinear(self.x, matrices, self.y, self.outlier_rows, self.fast)

    def quadratic_x(self, matrices: Matrices) -> Float[Tensor, "n pairs"]:
        """Return x_i' G x_i of each sample."""
        return bilinear(self.x, matrices, self.x, self.outlier_rows, self.fast)

    def quadratic_y(self, matrices: Matrices) -> Float[Tensor, "n pairs"]:
        """Return y_i' G y_i of each sample."""
        stacks = [Stack(self.y.chunk, [site], [part]) for site, part in zip(self.y.sites, self.y.samples, strict=True)]
        parts = zip(stacks, matrices.single, strict=True)
        forms = (bilinear(stack, matrix, stack, self.outlier_rows, self.fast) for stack, matrix in parts)
        return torch.cat(list(forms), 1)

    def squares(self) -> Float[Tensor, "sequences pairs"]:
        """Return |X_s'Y_s|^2 of each sequence."""
        if self.members.single:
            return self.x.norms() * self.y.norms()
        return squares_of(self.x.chunk, self.x.sites, self.y.chunk, self.y.sites, self.grams)[:, 0]

    def of_sequences(self, values: Float[Tensor, "n pairs"]) -> Float[Tensor, "sequences pairs"]:
        """Return the sum over the samples of each sequence."""
        if self.members.mean is None:
            return values.unflatten(0, (len(self.members.lengths), -1)).sum(1)
        sums = values.new_zeros((len(self.members.lengths), *values.shape[1:]))
        return sums.index_add_(0, self.sequence - self.members.first, values)


@dataclass(frozen=True)
class PairedSamples:
    """Samples at a site of x and at some sites of y of one width, read again chunk by chunk.

    Attributes:
        x: yields the chunks of x.
        y: yields those of y.
        site: the site of x.
        partners: the sites of y.
    """

    x: Again
    y: Again
    site: str
    partners: Sequence[str]

    def parts(self, single: bool = False) -> Iterator[Part]:
        """Yield the samples chunk by chunk; with ``single`` as if each of them were a sequence."""
        first = 0
        for number, (x, y) in enumerate(zip(self.x([self.site]), self.y(self.partners), strict=True)):
            stacks = Stack(x, [self.site]), Stack(y, self.partners)
            n = len(stacks[0])
            members = Sequences(first, first + n, torch.ones(n, dtype=torch.int64), single=True)
            first += n
            yield Part.of(*stacks, members if single else y.members, number)
