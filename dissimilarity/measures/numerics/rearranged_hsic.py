"""HSIC with sequences as units in many rearrangements of whole sequences, from the kernels of both sides.

For sequences of equal length, HSIC is a sum over pairs of sequences s, t of products of what the kernels hold of them
(``numerics.hsic``, ``numerics.blocks``). A rearrangement o of one side exchanges the pairs,

    HSIC(o) = sum_{s != t} <F_x[o(s), o(t)], F_y[s, t]> - sum_s <G_x[o(s)], G_y[s]> + const,

where F holds the block of a pair, its sums by row, and its sum. All products of F_x and F_y are computed once, n^2 S^2
operations for S sequences and n samples; a rearrangement then reads S^2 of them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.moments.products import find_outlier_rows, full_float32, squared_norms, sum_device

NUMBERS_AT_ONCE = 2**24
"""Products of pairs of sequences that are in memory together."""


@dataclass(frozen=True)
class PairKernel:
    """The linear kernel of one side by pairs of sequences.

    Attributes:
        blocks: the products of the samples of each ordered pair of sequences, zero for one with itself: in float32,
            which is all that a null needs, or in float64 where a few samples outweigh the others.
        sums: the sums of the blocks by row and by column, and of all of them, alike. With the blocks, this is F.
        single: G of each sequence, float64.
        total: the sum over all pairs of samples of different sequences.
    """

    blocks: Float[Tensor, "sequences sequences products"]
    sums: Float[Tensor, "sequences sequences rows"]
    single: Float[Tensor, "sequences parts"]
    total: Float[Tensor, ""]

    @classmethod
    def of(cls, x: Float[Tensor, "sequences length p"]) -> "PairKernel":
        """Return the kernel of samples by sequence."""
        sequences, length, _ = x.shape
        centered = x.to(sum_device(x.device)).double()
        samples = centered - centered.mean((0, 1))
        # What all sequences have in common there, as at their first tokens, leaves the null close to identical.
        samples = samples if bool(find_outlier_rows(squared_norms(samples)).any()) else samples.float()
        pairs, triples, fours = (1 / count for count in _counts(sequences, length))
        with full_float32(samples.device):
            blocks = samples[:, None] @ samples.mT[None]
        blocks.diagonal(dim1=0, dim2=1).zero_()
        rows = blocks.sum(-1)
        sums, by_row = rows.double().sum(-1), rows.double().sum(1)
        parts = [
            rows * triples**0.5,
            rows.transpose(0, 1) * triples**0.5,
            sums[..., None].to(rows.dtype) * (2 * fours) ** 0.5,
        ]
        single = torch.cat([by_row * (2 * triples) ** 0.5, 2 * fours**0.5 * sums.sum(1, keepdim=True)], 1)
        return cls(blocks.flatten(2).mul_(pairs**0.5), torch.cat(parts, -1), single, sums.sum() * fours**0.5)


def kernels_are_cheaper(sequences: int, length: int, widths: tuple[int, int], nulls: int) -> bool:
    """Return whether kernels take fewer operations than a product of the samples in each rearrangement."""
    n, (p, q) = sequences * length, widths
    kernels = n**2 * (p + q) + n**2 * sequences**2 // 2
    return sequences > 3 and length > 1 and kernels < nulls * n * p * q


def rearranged_hsic(x: PairKernel, y: PairKernel, order: Int[Tensor, "nulls sequences"]) -> Float[Tensor, " nulls"]:
    """Return HSIC in rearrangements in which sequence order[k, s] of x meets sequence s of y."""
    sequences = len(x.single)
    order = order.to(x.single.device)
    first, second = torch.triu_indices(sequences, sequences, 1, device=order.device)
    dtype = torch.promote_types(x.blocks.dtype, y.blocks.dtype)
    left = [part.flatten(0, 1).to(dtype) for part in (x.blocks, x.sums)]
    values = (x.single @ y.single.mT)[order, torch.arange(sequences, device=order.device)].sum(1).neg()
    at_once = max(1, NUMBERS_AT_ONCE // sequences**2)
    with full_float32(order.device):
        for s, t in zip(first.split(at_once), second.split(at_once), strict=True):
            right = [part[s, t].to(dtype).mT for part in (y.blocks, y.sums)]
            products = torch.addmm(left[1] @ right[1], left[0], right[0])
            meeting = order[:, s] * sequences + order[:, t]
            values += 2 * products[meeting, torch.arange(len(s), device=s.device)].sum(1, dtype=torch.float64)
    return values + x.total * y.total


def _counts(sequences: int, length: int) -> tuple[int, int, int]:
    """Return the numbers of pairs, triples and quadruples of samples of different sequences."""
    pairs = sequences * (sequences - 1) * length**2
    triples = pairs * (sequences - 2) * length
    return pairs, triples, triples * (sequences - 3) * length
