"""Samples of one side at sites of one width, as a second pass over the samples reads them."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.products import full_float32, scales_of, sum_device
from dissimilarity.moments.sequences import Sequences, sequence_sums


class Stack:
    """Samples of one side at sites of one width; what several values need of them is computed once.

    Args:
        chunk: the chunk that they come from.
        sites: the sites.
        samples: the samples at each site, (n, d); by default those of the chunk.
    """

    def __init__(self, chunk: Chunk, sites: Sequence[str], samples: Sequence[Float[Tensor, "n d"]] = ()) -> None:
        self.chunk, self.sites = chunk, tuple(sites)
        self.samples = list(samples) or [chunk.side_by_side([site]).flatten(0, 1) for site in self.sites]
        self._side_by_side: dict[torch.dtype, Tensor] = {}
        self._along: dict[str, Tensor] = {}
        self._sequence_sums: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.samples[0])

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return self.samples[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the samples."""
        return self.samples[0].dtype

    def side_by_side(self, dtype: torch.dtype) -> Float[Tensor, "n columns"]:
        """Return the samples at all sites side by side in some precision."""
        if dtype not in self._side_by_side:
            self._side_by_side[dtype] = _joined(self.samples, dtype)
        return self._side_by_side[dtype]

    def along(self, vectors: Float[Tensor, "pairs d"], name: str = "") -> Float[Tensor, "n _"]:
        """Return x_i . g of each sample with one vector per site, or with several for a single site.

        Samples are multiplied in their own precision, outliers in float64.

        Args:
            vectors: the vectors.
            name: what they are, if each site has one that is the same for all pairs; these products are computed once.
        """
        if name and name in self._along:
            return self._along[name]
        single = len(self.samples) == 1
        vectors_of_sites = [vectors[:1] if name else vectors] if single else vectors[:, None]
        parts = zip(self.samples, vectors_of_sites, strict=True)
        rows = self.outlier_rows.nonzero()[:, 0] if self.dtype != torch.float64 else None
        product = torch.cat([_products(samples, vectors, rows) for samples, vectors in parts], 1)
        if name:
            self._along[name] = product
        return product

    def norms(self) -> Float[Tensor, "n sites"]:
        """Return the squared norm of each sample at each site."""
        return self.chunk.norms_of(self.sites).flatten(0, 1)

    @cached_property
    def outlier_rows(self) -> Bool[Tensor, " n"]:
        """Which samples are outliers at any of the sites."""
        return self.chunk.outlier_rows_of(self.sites).flatten()

    def own_weights(self, members: Sequences) -> Float[Tensor, "n sites"]:
        """Return the product of each sample with the sum of its sequence."""
        if members.single:
            return self.norms()
        if self.chunk.sums:
            return self.chunk.weights_of(self.sites).flatten(0, 1)
        return torch.stack([weights.flatten() for _, weights in self._sums_and_weights(members)], 1)

    def own_sums(self, members: Sequences) -> Float[Tensor, "sequences sites d"]:
        """Return the sums of the sequences."""
        if members.single:
            return _as_float64(torch.stack(self.samples, 1))
        if self.chunk.sums:
            return torch.stack([self.chunk.sums_of(site) for site in self.sites], 1)
        return torch.stack([sums for sums, _ in self._sums_and_weights(members)], 1)

    def _sums_and_weights(self, members: Sequences) -> list[tuple[Tensor, Tensor]]:
        """Return the sums of the sequences at each site and the products of samples with them, computed once."""
        if not self._sequence_sums:
            parts = (self.chunk.side_by_side([site]) for site in self.sites)
            self._sequence_sums = [sequence_sums(part, members) for part in parts]
        return self._sequence_sums

    def grams(self, members: Sequences) -> Float[Tensor, "sequences sites length length"]:
        """Return the products of the samples of each sequence with each other."""
        if members.single:
            return self.norms()[..., None, None]
        return self.chunk.grams_of(self.sites).double()


def _as_float64(samples: Tensor) -> Tensor:
    return samples.to(sum_device(samples.device)).double()


def _products(
    x: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"], outlier_rows: Int[Tensor, " rows"] | None
) -> Float[Tensor, "n k"]:
    """Return x_i . g, in float64 for some rows and in the precision of the samples for the others."""
    if outlier_rows is None:
        return _as_float64(x) @ vectors.mT
    size = scales_of(vectors)
    with full_float32(x.device):
        product = _as_float64(x @ (vectors / size[:, None]).to(x.device, x.dtype).mT) * size
    if len(outlier_rows):
        product[outlier_rows.to(product.device)] = _as_float64(x[outlier_rows]) @ vectors.mT
    return product


def _joined(samples: Sequence[Float[Tensor, "n d"]], dtype: torch.dtype) -> Float[Tensor, "n columns"]:
    """Return samples side by side in some precision; for one site without a copy, if it has that precision."""
    if len(samples) == 1:
        return samples[0].to(dtype)
    widths = [part.shape[1] for part in samples]
    joined = samples[0].new_empty(len(samples[0]), sum(widths), dtype=dtype)
    for part, columns in zip(samples, joined.split(widths, 1), strict=True):
        columns.copy_(part)
    return joined
