"""Sums over whole sequences, for estimators whose independent units are sequences and not their samples.

With X_s, Y_s the samples of sequence s, a_s and b_s their sums, k_i = x_i . a_s and l_i = y_i . b_s, and n_s the number
of samples in units of the mean over all sequences, these are the sums beside those of ``pair``, for powers e of n_s:

| key | sum of | shape |
| --- | --- | --- |
| ``u``, ``v`` | a_s, b_s, not added up | (sequences, p), (sequences, q) |
| ``xx1``, ``yy1``, ``xy1``, ``xx2``, ... | n_s^e times ``xx``, ``yy``, ``xy`` | as those |
| ``gg0``, ``hh0``, ``gh0``, ``gg1``, ... | n_s^e times the squared norms of X_s'X_s, Y_s'Y_s, X_s'Y_s | () |
| ``gg_s``, ``hh_s``, ``gh_s`` | the same norms, not added up, if samples are read again | (sequences,) |
| ``kk0``, ``ll0``, ``kl0``, ``kk1``, ... | n_i^e times k_i^2, l_i^2, k_i l_i | () |
| ``xk0``, ``xl0``, ``xk1``, ``xl1`` | n_i^e times x_i k_i, x_i l_i | (p,) |
| ``yl0``, ``yk0``, ``yl1``, ``yk1`` | n_i^e times y_i l_i, y_i k_i | (q,) |

Sequences of equal length have n_s = 1, and their sums with e = 0 stand for all others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dissimilarity.moments.products import full_float32, products, sum_device
from dissimilarity.probe.padding import SequenceLengths

Sum = tuple[str, Tensor, Tensor]
"""The name of a sum, over all samples and per unit."""

PRODUCTS_AT_ONCE = 2**22
"""Numbers of the products of single sequences that are in memory together."""

FOURTH_POWERS = 1e-20, 1e30
"""Products of two squared norms between which sums of their products are within the range of float32."""

SAMPLES_AT_ONCE = 2**17
"""Numbers that are taken in float64 at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Sequences:
    """The sequences whose samples form a chunk.

    Attributes:
        first: the place of the first one among all sequences of the probe set.
        count: number of all sequences of the probe set.
        lengths: number of samples of each of the chunk's sequences.
        mean: mean number of samples over all sequences of the probe set; None where all have the same.
        single: whether each sequence of the probe set is one sample.
    """

    first: int
    count: int
    lengths: Int[Tensor, " sequences"]
    mean: float | None = None
    single: bool = False

    @classmethod
    def of_chunk(cls, lengths: SequenceLengths, activation: Tensor, units: range, before: int) -> "Sequences":
        """Return the sequences of a chunk.

        Args:
            lengths: units and lengths of the sequences of the whole probe set.
            activation: activation of the chunk.
            units: the units that it belongs to.
            before: samples of the first unit in earlier chunks.
        """
        first, count = int((lengths.units < units.start).sum()), len(lengths.units)
        if lengths.counts is None or not lengths.vary_in(activation):
            length = activation[0, ..., 0].numel()
            chunk = torch.full((len(activation),), length)
            return cls(first + before // length, count, chunk, single=length == 1)
        ends, start = lengths.counts.cumsum(0), int(lengths.counts[:first].sum()) + before
        chunk = lengths.counts[(ends > start) & (ends <= start + activation.shape[1])]
        mean = lengths.counts.double().mean().item() if lengths.vary else None
        single = not lengths.vary and int(lengths.counts[0]) == 1
        return cls(int((ends <= start).sum()), count, chunk, mean, single)

    @property
    def places(self) -> slice:
        """The places of the chunk's sequences among all."""
        return slice(self.first, self.first + len(self.lengths))

    @property
    def of_samples(self) -> Int[Tensor, " samples"]:
        """The place of each sample's sequence among all."""
        return torch.arange(self.first, self.first + len(self.lengths)).repeat_interleave(self.lengths)

    def prefer_grams(self, columns: int, products: int) -> bool:
        """Return whether products of samples with each other take less work than those of columns with columns.

        Args:
            columns: columns of all sites whose samples would be multiplied with each other, once per site.
            products: entries of the products of columns with columns, of all pairs of sites.
        """
        return int(self.lengths.max()) * columns <= products

    def rows(self, values: Shaped[Tensor, "units n *rest"]) -> Shaped[Tensor, "s length *rest"]:
        """Return values per sample by sequence; short sequences are filled with zeros."""
        if self.mean is None:
            return values.reshape(len(self.lengths), -1, *values.shape[2:])
        is_sample = self._is_sample.to(values.device)
        rows = values.new_zeros((*is_sample.shape, *values.shape[2:]))
        rows[is_sample] = values.flatten(0, 1)
        return rows

    def samples(self, rows: Float[Tensor, "sequences length *rest"], units: int) -> Float[Tensor, "units n *rest"]:
        """Return values per sample as they came, the inverse of ``rows``."""
        flat = rows.flatten(0, 1) if self.mean is None else rows[self._is_sample.to(rows.device)]
        return flat.unflatten(0, (units, -1))

    def weighted(self, values: Float[Tensor, "units n *rest"], e: int) -> Float[Tensor, "units n *rest"]:
        """Return values per sample times the length of their sequence, in units of the mean length, to the power e."""
        if self.mean is None or not e:
            return values
        lengths = self.lengths.repeat_interleave(self.lengths).to(values) / self.mean
        return values * lengths.view(len(values), -1, *[1] * (values.ndim - 2)) ** e

    def with_powers(self, k: Float[Tensor, "units n sites"]) -> Float[Tensor, "units n powers"]:
        """Return weights of samples at all sites, times the powers of the lengths that weighted sums need."""
        return torch.cat([self.weighted(k, e) for e in range(1 if self.mean is None else 2)], -1)

    def products(
        self,
        key: str,
        x: Float[Tensor, "units n p"],
        y: Float[Tensor, "units n q"],
        outlier_rows: Bool[Tensor, "units n"],
    ) -> Iterator[Sum]:
        """Yield the sums ``xx1``, ``xx2`` or ``xy1``, ``xy2``, which are needed where lengths vary."""
        for e in (1, 2) if self.mean is not None else ():
            yield f"{key}{e}", *products(x, self.weighted(y, e), outlier_rows)

    def squares(self, key: str, values: Float[Tensor, "sequences ..."], units: int) -> Iterator[Sum]:
        """Yield the sums ``gg0`` to ``gg2`` or ``gh0`` to ``gh2`` of one value per sequence."""
        for e in range(1 if self.mean is None else 3):
            lengths = (self.lengths.to(values) / (self.mean or 1)) ** e
            weighted = values * lengths.view(-1, *[1] * (values.ndim - 1)) if e else values
            per_unit = weighted.unflatten(0, (units, -1)).sum(1)
            yield f"{key}{e}", per_unit.sum(0), per_unit

    @cached_property
    def _is_sample(self) -> Bool[Tensor, "sequences length"]:
        return torch.arange(int(self.lengths.max())) < self.lengths[:, None]


def sequence_sums(
    x: Float[Tensor, "units n p"], sequences: Sequences
) -> tuple[Float[Tensor, "sequences p"], Float[Tensor, "units n"]]:
    """Compute a_s, the sum of each sequence, and k_i = x_i . a_s of each sample, in float64."""
    rows, device = sequences.rows(x), sum_device(x.device)
    at_once = len(rows) if x.is_cuda else max(1, SAMPLES_AT_ONCE // rows[0].numel())
    sums, products = [], []
    for part in rows.split(at_once):
        part = part.to(device).double()
        sums.append(part.sum(1))
        products.append((part @ sums[-1][..., None])[..., 0])
    return torch.cat(sums), sequences.samples(torch.cat(products), len(x))


def within_grams(
    x: Float[Tensor, "units n p"],
    norms: Float[Tensor, "units n"],
    outlier_rows: Bool[Tensor, "units n"],
    sequences: Sequences,
) -> Float[Tensor, "sequences length length"]:
    """Compute X_s X_s' of each sequence; those with outliers in float64, and so then are all returned."""
    rows, has_outliers = sequences.rows(x), sequences.rows(outlier_rows).any(1)
    device = sum_device(x.device)
    with full_float32(x.device):
        grams = (rows @ rows.mT).to(device)
    if rows.dtype != torch.float64 and bool(has_outliers.any()):
        grams, outliers = grams.double(), rows[has_outliers].to(device).double()
        grams[has_outliers.to(device)] = outliers @ outliers.mT
    grams.diagonal(dim1=1, dim2=2).copy_(sequences.rows(norms))
    return grams


def squares_of_grams(
    x: Float[Tensor, "sequences sites length length"], y: Float[Tensor, "sequences partners length length"]
) -> Float[Tensor, "sequences sites partners"]:
    """Return |X_s'Y_s|^2 = tr(X_s X_s' Y_s Y_s') of each sequence, for all sites of x with all of y."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    largest = math.prod(side.diagonal(dim1=2, dim2=3).amax().item() for side in (x, y))
    if not FOURTH_POWERS[0] < largest < FOURTH_POWERS[1]:
        dtype = torch.float64
    with full_float32(x.device):
        return (x.flatten(2).to(dtype) @ y.flatten(2).to(dtype).mT).double()


def squares_of_products(
    x: Float[Tensor, "sequences length columns"],
    y: Float[Tensor, "sequences length others"],
    outlier_rows: Bool[Tensor, "sequences length"],
    sites: Sequence[int],
    partners: Sequence[int],
) -> Float[Tensor, "sequences sites partners"]:
    """Return |X_s'Y_s|^2 as ``squares_of_grams``, from the products: less work where sequences are long.

    Args:
        x: samples of all sites side by side.
        y: samples of all partners side by side.
        outlier_rows: which samples are outliers; their sequences are multiplied in float64.
        sites: number of columns of each site.
        partners: number of columns of each partner.
    """
    device, y = sum_device(x.device), y.to(x)
    at_once = max(1, PRODUCTS_AT_ONCE // (x.shape[-1] * y.shape[-1]))

    def squares(product: Tensor) -> Tensor:
        blocks = [block for rows in product.to(device).split(list(sites), 1) for block in rows.split(list(partners), 2)]
        norms = torch.stack([torch.linalg.vector_norm(block, dim=(1, 2), dtype=torch.float64) for block in blocks], 1)
        return norms.square().unflatten(1, (len(sites), len(partners)))

    with full_float32(x.device):
        parts = zip(x.split(at_once), y.split(at_once), strict=True)
        values = torch.cat([squares(a.mT @ b) for a, b in parts])
        for sequence in outlier_rows.any(1).nonzero()[:, 0].tolist() if x.dtype != torch.float64 else ():
            at = slice(sequence, sequence + 1)
            values[at] = squares(x[at].to(device).double().mT @ y[at].to(device).double())
    return values
