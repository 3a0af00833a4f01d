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

from dissimilarity.moments.products import full_float32, sum_device

NUMBERS_AT_ONCE = 2**24
"""Products of pairs of sequences that are in memory together."""


@dataclass(frozen=True)
class PairKernel:
    """The linear kernel of one side by pairs of sequences.

    Attributes:
        features: F of each ordered pair of sequences, zero for a sequence with itself, float32.
        single: G of each sequence, float64.
        total: the sum over all pairs of samples of different sequences.
    """

    features: Float[Tensor, "sequences sequences features"]
    single: Float[Tensor, "sequences features"]
    total: Float[Tensor, ""]

    @classmethod
    def of(cls, x: Float[Tensor, "sequences length p"]) -> "PairKernel":
        """Return the kernel of samples by sequence."""
        sequences, length, width = x.shape
        centered = x.to(sum_device(x.device)).double()
        single = (centered - centered.mean((0, 1))).view(sequences * length, width).float()
        with full_float32(single.device):
            kernel = single @ single.mT  # the null needs no more digits
        is_other = 1 - torch.eye(sequences, dtype=torch.float64, device=kernel.device)
        rows = kernel.view(sequences, length, sequences, length).sum(-1).double() * is_other[:, None]
        rows = rows.transpose(1, 2)
        sums = rows.sum(-1)
        pairs, triples, fours = (1 / count for count in _counts(sequences, length))
        features = kernel.new_empty((sequences, sequences, length**2 + 2 * length + 1))
        blocks = features[..., : length**2].unflatten(2, (length, length))
        torch.mul(kernel.view(sequences, length, sequences, length).transpose(1, 2), pairs**0.5, out=blocks)
        blocks.diagonal(dim1=0, dim2=1).zero_()
        features[..., length**2 : -1] = torch.cat([rows, rows.transpose(0, 1)], -1) * triples**0.5
        features[..., -1] = sums * (2 * fours) ** 0.5
        own = torch.cat([rows.sum(1) * (2 * triples) ** 0.5, 2 * fours**0.5 * sums.sum(1, keepdim=True)], 1)
        return cls(features, own, sums.sum() * fours**0.5)


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
    left = x.features.flatten(0, 1)
    values = (x.single @ y.single.mT)[order, torch.arange(sequences, device=order.device)].sum(1).neg()
    at_once = max(1, NUMBERS_AT_ONCE // len(left))
    with full_float32(left.device):
        for s, t in zip(first.split(at_once), second.split(at_once), strict=True):
            products = left @ y.features[s, t].mT
            meeting = order[:, s] * sequences + order[:, t]
            values += 2 * products[meeting, torch.arange(len(s), device=s.device)].sum(1, dtype=torch.float64)
    return values + x.total * y.total


def _counts(sequences: int, length: int) -> tuple[int, int, int]:
    """Return the numbers of pairs, triples and quadruples of samples of different sequences."""
    pairs = sequences * (sequences - 1) * length**2
    triples = pairs * (sequences - 2) * length
    return pairs, triples, triples * (sequences - 3) * length
