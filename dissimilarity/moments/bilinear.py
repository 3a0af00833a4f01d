"""Bilinear forms of samples, x_i' G y_i, with one or several matrices G at once."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dissimilarity.moments.products import fast_where_many, full_float32, scales_of, sum_device
from dissimilarity.moments.stack import Stack

BYTES_AT_ONCE = {"cpu": 2**23, "cuda": 2**29}
"""Bytes of the products of samples with matrices that are in memory together: few enough to stay in the cache."""


class Matrices:
    """Matrices of bilinear forms, one per pair, as products with samples take them.

    Args:
        exact: the matrices, float64.
    """

    def __init__(self, exact: Float[Tensor, "pairs p q"]) -> None:
        self.exact = exact
        self.size = scales_of(exact)
        self._wide: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def wide(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "p columns"]:
        """Return the scaled matrices side by side in some precision."""
        if (dtype, device) not in self._wide:
            pairs, p, q = self.exact.shape
            wide = torch.empty(p, pairs, q, dtype=dtype, device=device)
            for pair, (matrix, size) in enumerate(zip(self.exact, self.size, strict=True)):
                wide[:, pair] = matrix / size
            self._wide[dtype, device] = wide.flatten(1)
        return self._wide[dtype, device]

    @cached_property
    def single(self) -> list["Matrices"]:
        """The matrix of each pair alone."""
        return [Matrices(matrix[None]) for matrix in self.exact]


def bilinear(
    x: Stack, matrices: Matrices, y: Stack, outlier_rows: Bool[Tensor, " n"], fast: bool
) -> Float[Tensor, "n pairs"]:
    """Return x_i' G y_i of each sample in the precision of the samples, that of outliers in float64.

    Args:
        x: samples of the first side, at one site.
        matrices: the matrices.
        y: samples of the second side, at one site per matrix or at one for all.
        outlier_rows: which samples are outliers.
        fast: whether products may be as imprecise as error bars allow.
    """
    device, dtype = sum_device(x.device), torch.promote_types(x.dtype, y.dtype)
    is_fast = fast and dtype != torch.float64 and fast_where_many(x.samples[0])
    used = torch.bfloat16 if is_fast else dtype
    with full_float32(x.device):
        wide = matrices.wide(used, x.device)
        values = _forms(x.side_by_side(used), wide, y.side_by_side(used), len(matrices.size)).to(device).double()
    rows = outlier_rows.nonzero()[:, 0] if dtype != torch.float64 else outlier_rows[:0]
    if len(rows):
        first, second = (torch.stack([part[rows] for part in side.samples]).to(device).double() for side in (x, y))
        values[rows.to(device)] = ((first @ matrices.exact) * second).sum(-1).mT / matrices.size
    return values * matrices.size


def _forms(
    x: Float[Tensor, "n p"], wide: Float[Tensor, "p columns"], y: Float[Tensor, "n _"], pairs: int
) -> Float[Tensor, "n pairs"]:
    """Return x_i' G y_i, a few samples at a time."""
    values = x.new_empty(len(x), pairs, dtype=torch.promote_types(x.dtype, torch.float32))
    at_once = max(1, BYTES_AT_ONCE["cuda" if x.is_cuda else "cpu"] // wide[0].nbytes)
    space = x.new_empty(min(at_once, len(x)), wide.shape[1])
    for start in range(0, len(x), at_once):
        rows = slice(start, min(start + at_once, len(x)))
        products = torch.mm(x[rows], wide, out=space[: rows.stop - start]).unflatten(1, (pairs, -1))
        products.mul_(y[rows].unflatten(1, (-1, products.shape[-1])))
        values[rows] = products.sum(-1, dtype=values.dtype)
    return values
