"""Distances between the samples of one side, exact enough to rank them.

A symmetric matrix is stored as its entries above the diagonal, row by row (scipy's condensed form). That takes half the
memory, and comparing two sides is one pass over two vectors.

Squared distances come from one matrix product, |u|^2 + |v|^2 - 2 u.v about the mean, in which near pairs lose their
digits. Those pairs are recomputed from the difference of the samples. The product of float32 samples is float32, except
where rounding would show: with few samples, and so few pairs to average over; with many near pairs; and with nearly
equal distances. There it is float64.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dissimilarity.moments.products import full_float32, sum_device

EXACT_SAMPLES = 1024
"""Up to this many samples, products are taken in float64 whatever the type of the samples."""

NEAR = {torch.float32: 1e-2, torch.float64: 2e-2}
"""A squared distance below this share of the sum of both squared norms has lost too many digits.

The share is larger in float64, where distances that are equal on paper must agree up to rounding.
"""

MANY = 1e-3
"""The share of near pairs, or the relative spread of distances, that calls for products in float64."""

SAMPLES_AT_ONCE = 512


def about_mean(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Return centered float64 samples, in units of the power of two above the largest entry."""
    low, high = x.detach().aminmax()
    largest = torch.maximum(-low, high).to(sum_device(x.device)).double()
    samples = x.detach().to(largest.device, torch.float64, copy=True)
    samples *= torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
    return samples.sub_(samples.mean(0))


def pair_distances(samples: Float[Tensor, "n p"], single: bool, squared: bool = True) -> Float[Tensor, " pairs"]:
    """Return squared distances or distances of all pairs of samples, condensed.

    Args:
        samples: float64, about their mean.
        single: whether the result needs no more than float32's digits.
        squared: whether to return squared distances.

    Returns:
        float32 or float64, as the products are.
    """
    pairs = None
    if single and len(samples) > EXACT_SAMPLES:
        pairs = _all_pairs(samples, torch.float32)
    if pairs is None:
        pairs = _all_pairs(samples, torch.float64)
    assert pairs is not None
    return pairs if squared else pairs.sqrt_()


def exact_distances(samples: Float[Tensor, "n p"], index: Int[Tensor, " m"]) -> Float[Tensor, "m n"]:
    """Return squared distances of the samples at ``index`` to all, by products in float64."""
    norms = torch.linalg.vecdot(samples, samples)
    block = torch.addmm(norms, samples[index], samples.T, alpha=-2) + norms[index, None]
    _repair(block, _near(block, norms[index], norms), samples[index], samples)
    return block


def _near(
    block: Float[Tensor, "m others"], left: Float[Tensor, " m"], right: Float[Tensor, " others"]
) -> Bool[Tensor, "m others"]:
    """Return which squared distances are too small beside the norms that they are differences of."""
    share = NEAR[block.dtype]
    return block < share * left[:, None] + share * right


def _repair(
    block: Float[Tensor, "m others"],
    near: Bool[Tensor, "m others"],
    left: Float[Tensor, "m p"],
    right: Float[Tensor, "others p"],
) -> None:
    """Recompute the marked squared distances from the differences of the samples, in place."""
    for part in near.nonzero().split(max(1, 2**21 // max(1, left.shape[1]))):
        i, j = part.unbind(1)
        difference = left[i] - right[j]
        block[i, j] = torch.linalg.vecdot(difference, difference).to(block.dtype)


def _all_pairs(samples: Float[Tensor, "n p"], dtype: torch.dtype) -> Float[Tensor, " pairs"] | None:
    """Return condensed squared distances by products of one type; None if float32 is not precise enough."""
    n, used = len(samples), samples.to(dtype)
    norms = torch.linalg.vecdot(used, used)
    pairs, space = used.new_empty(n * (n - 1) // 2), used.new_empty(min(SAMPLES_AT_ONCE, n) * n)
    most_near = MANY * len(pairs) if dtype == torch.float32 else len(pairs)
    near_pairs, safe = 0, 2 * NEAR[dtype] * norms.max()
    for start, part in _parts(pairs, n):
        rows = slice(start, min(start + SAMPLES_AT_ONCE, n))
        block = space[: (rows.stop - start) * (n - start)].view(-1, n - start)
        with full_float32(samples.device):
            torch.addmm(norms[start:], used[rows], used[start:].T, alpha=-2, out=block)
        block += norms[rows, None]
        _pack(block, part)
        if len(part) and not bool(part.amin() > safe):
            near = _near(block, norms[rows], norms[start:]).triu_(1)
            near_pairs += int(near.sum())
            if near_pairs > most_near:
                return None
            _repair(block, near, samples[rows], samples[start:])
            _pack(block, part)
    if dtype == torch.float32:
        # Every 61st entry is enough to tell.
        spread, mean = torch.std_mean(pairs[::61])
        if not bool(spread > MANY * mean):
            return None
    return pairs


def square(pairs: Float[Tensor, " pairs"], n: int, diagonal: float = 0.0) -> Float[Tensor, "n n"]:
    """Return the symmetric float64 matrix of condensed entries."""
    matrix = pairs.new_zeros((n, n), dtype=torch.float64)
    for start, part in _parts(pairs, n):
        _unpack(part, matrix[start : start + SAMPLES_AT_ONCE, start:])
    matrix += matrix.T.clone()
    matrix.diagonal().fill_(diagonal)
    return matrix


def condensed(matrix: Shaped[Tensor, "n n"], dtype: torch.dtype) -> Shaped[Tensor, " pairs"]:
    """Return the entries above the diagonal."""
    n = len(matrix)
    pairs = matrix.new_empty(n * (n - 1) // 2, dtype=dtype)
    for start, part in _parts(pairs, n):
        _pack(matrix[start : start + SAMPLES_AT_ONCE, start:], part)
    return pairs


def rearranged_pairs(order: Int[Tensor, " n"]) -> Int[Tensor, " pairs"]:
    """Return where the condensed entries of samples[order] are among those of the samples; order is a permutation.

    >>> rearranged_pairs(torch.tensor([0, 2, 1]))  # pairs 01, 02, 12 become 02, 01, 21
    tensor([1, 0, 2])
    """
    n = len(order)
    places = order.new_empty(n * (n - 1) // 2)
    for start, part in _parts(places, n):
        first, second = order[start : start + SAMPLES_AT_ONCE, None], order[start:]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        _pack(low * (2 * n - 1 - low) // 2 + high - low - 1, part)
    return places


def row_sums(pairs: Float[Tensor, " pairs"], n: int) -> Float[Tensor, " n"]:
    """Return float64 row sums of a symmetric matrix with a zero diagonal."""
    sums = pairs.new_zeros(n, dtype=torch.float64)
    for start, part in _parts(pairs, n):
        block = pairs.new_zeros(min(SAMPLES_AT_ONCE, n - start), n - start)
        _unpack(part, block)
        sums[start : start + SAMPLES_AT_ONCE] += block.sum(1, dtype=torch.float64)
        sums[start:] += block.sum(0, dtype=torch.float64)
    return sums


def dot(u: Float[Tensor, " pairs"], v: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Return the inner product in float64, some thousand entries at a time, which stay in one core's cache.

    The blocks are too small for torch to share them among threads: synchronizing after each block would take longer,
    ten times on a busy machine.
    """
    parts = zip(u.split(2**14), v.split(2**14), strict=True)
    return torch.stack([(a.double() * b.double()).sum() for a, b in parts]).sum()


def _parts(pairs: Tensor, n: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the condensed entries by blocks of rows: the first row of each block, and its entries."""
    place = 0
    for start in range(0, n, SAMPLES_AT_ONCE):
        rows = min(SAMPLES_AT_ONCE, n - start)
        size = rows * (n - start) - rows * (rows + 1) // 2
        yield start, pairs[place : place + size]
        place += size


def _pack(block: Tensor, into: Tensor) -> None:
    """Copy the part of a block above the diagonal, row by row."""
    place, width = 0, block.shape[1]
    source, target = _fast_view(block), _fast_view(into)
    for row in range(len(block)):
        size = width - row - 1
        target[place : place + size] = source[row, row + 1 :]
        place += size


def _unpack(part: Tensor, into: Tensor) -> None:
    """Copy condensed entries into the part of a block above the diagonal."""
    place, width = 0, into.shape[1]
    source, target = _fast_view(part), _fast_view(into)
    for row in range(len(into)):
        size = width - row - 1
        target[row, row + 1 :] = source[place : place + size]
        place += size


def _fast_view(values: Tensor) -> Any:
    """Return the same memory as a numpy array, whose small copies take a fifth of the time."""
    return values.numpy() if values.device.type == "cpu" else values
