"""Distances between the rows of one side, exact enough to rank them.

A symmetric matrix is kept as its entries above the diagonal, row by row (scipy's condensed form): half the memory, and
what two sides have in common is one pass over two vectors.

Squared distances come from one matrix product, |u|^2 + |v|^2 - 2 u.v about the mean, in which near rows lose their
digits: those pairs are taken again from the difference of the rows. The product of float32 rows is float32, but float64
where rounding would show: of few rows, with few pairs to average over; where many pairs are near; where all distances
are alike.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dissimilarity.moments.products import full_float32, sum_device

EXACT_ROWS = 1024
"""Up to how many rows products are taken in float64, whatever the type of the rows."""

NEAR = {torch.float32: 1e-2, torch.float64: 2e-2}
"""Which share of the sum of both norms a squared distance may not fall below, lest too few digits are left of it.

More in float64, in which distances that are equal on paper shall be so but for rounding.
"""

MANY = 1e-3
"""The share of near pairs, and the relative spread of distances, that call for products in float64."""

ROWS_AT_ONCE = 512


def about_mean(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Float64 rows about their mean, in units of the power of two above the largest entry."""
    low, high = x.detach().aminmax()
    largest = torch.maximum(-low, high).to(sum_device(x.device)).double()
    rows = x.detach().to(largest.device, torch.float64, copy=True)
    rows *= torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
    return rows.sub_(rows.mean(0))


def pair_distances(rows: Float[Tensor, "n p"], single: bool, squared: bool = True) -> Float[Tensor, " pairs"]:
    """Squared distances or distances of all pairs of rows, condensed.

    Args:
        rows: float64, about their mean.
        single: whether the result needs no more than float32's digits.
        squared: whether to leave out the root.

    Returns:
        float32 or float64, by the products.
    """
    found = None
    if single and len(rows) > EXACT_ROWS:
        found = _all_pairs(rows, torch.float32)
    if found is None:
        found = _all_pairs(rows, torch.float64)
    assert found is not None
    return found if squared else found.sqrt_()


def exact_distances(rows: Float[Tensor, "n p"], of: Int[Tensor, " m"]) -> Float[Tensor, "m n"]:
    """Squared distances of some of the rows to all, by products in float64."""
    norms = torch.linalg.vecdot(rows, rows)
    block = torch.addmm(norms, rows[of], rows.T, alpha=-2) + norms[of, None]
    _repair(block, _near(block, norms[of], norms), rows[of], rows)
    return block


def _near(
    block: Float[Tensor, "m others"], left: Float[Tensor, " m"], right: Float[Tensor, " others"]
) -> Bool[Tensor, "m others"]:
    """Which squared distances are too small beside the norms that they are differences of."""
    share = NEAR[block.dtype]
    return block < share * left[:, None] + share * right


def _repair(
    block: Float[Tensor, "m others"],
    near: Bool[Tensor, "m others"],
    left: Float[Tensor, "m p"],
    right: Float[Tensor, "others p"],
) -> None:
    """Takes the marked squared distances again from the differences of the rows, in place."""
    for part in near.nonzero().split(max(1, 2**21 // max(1, left.shape[1]))):
        i, j = part.unbind(1)
        difference = left[i] - right[j]
        block[i, j] = torch.linalg.vecdot(difference, difference).to(block.dtype)


def _all_pairs(rows: Float[Tensor, "n p"], dtype: torch.dtype) -> Float[Tensor, " pairs"] | None:
    """Condensed squared distances by products of that type; None where float32 will not do."""
    n, used = len(rows), rows.to(dtype)
    norms = torch.linalg.vecdot(used, used)
    pairs, space = used.new_empty(n * (n - 1) // 2), used.new_empty(min(ROWS_AT_ONCE, n) * n)
    few = MANY * len(pairs) if dtype == torch.float32 else len(pairs)
    found, safe = 0, 2 * NEAR[dtype] * norms.max()
    for start, part in _parts(pairs, n):
        of = slice(start, min(start + ROWS_AT_ONCE, n))
        block = space[: (of.stop - start) * (n - start)].view(-1, n - start)
        with full_float32(rows.device):
            torch.addmm(norms[start:], used[of], used[start:].T, alpha=-2, out=block)
        block += norms[of, None]
        _pack(block, part)
        if len(part) and not bool(part.amin() > safe):
            near = _near(block, norms[of], norms[start:]).triu_(1)
            found += int(near.sum())
            if found > few:
                return None
            _repair(block, near, rows[of], rows[start:])
            _pack(block, part)
    if dtype == torch.float32:
        # Every 61st will tell.
        spread, mean = torch.std_mean(pairs[::61])
        if not bool(spread > MANY * mean):
            return None
    return pairs


def square(pairs: Float[Tensor, " pairs"], n: int, diagonal: float = 0.0) -> Float[Tensor, "n n"]:
    """The symmetric float64 matrix of condensed entries."""
    whole = pairs.new_zeros((n, n), dtype=torch.float64)
    for start, part in _parts(pairs, n):
        _unpack(part, whole[start : start + ROWS_AT_ONCE, start:])
    whole += whole.T.clone()
    whole.diagonal().fill_(diagonal)
    return whole


def condensed(whole: Shaped[Tensor, "n n"], dtype: torch.dtype) -> Shaped[Tensor, " pairs"]:
    """The entries above the diagonal."""
    n = len(whole)
    pairs = whole.new_empty(n * (n - 1) // 2, dtype=dtype)
    for start, part in _parts(pairs, n):
        _pack(whole[start : start + ROWS_AT_ONCE, start:], part)
    return pairs


def rearranged(pairs: Float[Tensor, " pairs"], order: Int[Tensor, " n"]) -> Float[Tensor, " pairs"]:
    """The condensed matrix of rows[order]."""
    order = order.to(pairs.device)
    return condensed(square(pairs, len(order))[order][:, order], pairs.dtype)


def row_sums(pairs: Float[Tensor, " pairs"], n: int) -> Float[Tensor, " n"]:
    """Float64 sums of the rows of a symmetric matrix with a diagonal of zeros."""
    sums = pairs.new_zeros(n, dtype=torch.float64)
    for start, part in _parts(pairs, n):
        block = pairs.new_zeros(min(ROWS_AT_ONCE, n - start), n - start)
        _unpack(part, block)
        sums[start : start + ROWS_AT_ONCE] += block.sum(1, dtype=torch.float64)
        sums[start:] += block.sum(0, dtype=torch.float64)
    return sums


def dot(u: Float[Tensor, " pairs"], v: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Inner product in float64, some thousand entries at a time, which stay in the cache of one processor.

    So few that torch does not share them out: meeting after each would take longer, on a busy machine ten times.
    """
    parts = zip(u.split(2**14), v.split(2**14), strict=True)
    return torch.stack([(a.double() * b.double()).sum() for a, b in parts]).sum()


def _parts(pairs: Tensor, n: int) -> Iterator[tuple[int, Tensor]]:
    """The condensed entries by blocks of rows: the first row of each, and its entries."""
    place = 0
    for start in range(0, n, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, n - start)
        size = rows * (n - start) - rows * (rows + 1) // 2
        yield start, pairs[place : place + size]
        place += size


def _pack(block: Tensor, into: Tensor) -> None:
    """Copies what lies above the diagonal of a block, row by row."""
    place, width = 0, block.shape[1]
    source, target = _quick(block), _quick(into)
    for row in range(len(block)):
        size = width - row - 1
        target[place : place + size] = source[row, row + 1 :]
        place += size


def _unpack(part: Tensor, into: Tensor) -> None:
    place, width = 0, into.shape[1]
    source, target = _quick(part), _quick(into)
    for row in range(len(into)):
        size = width - row - 1
        target[row, row + 1 :] = source[place : place + size]
        place += size


def _quick(values: Tensor) -> Any:
    """The same memory as a numpy array, whose small copies cost a fifth."""
    return values.numpy() if values.device.type == "cpu" else values
