"""HSIC of two kernel matrices with whole sequences as units: every pair of samples of one sequence is left out.

It is the estimator of ``numerics.hsic`` for kernels that are no products of features, from sums over the blocks of two
sequences: of the entries of each matrix, of their products, and of the entries of each sample with each sequence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.numerics.hsic import mean_of_quadruples


@dataclass(frozen=True)
class Blocks:
    """A kernel matrix with the sequences of its samples.

    Attributes:
        kernel: the entries, (n, n), float64.
        member: the weight of a sample in its sequence, else 0.
        rows: sums of each sample's entries with each *other* sequence.
    """

    kernel: Float[Tensor, "n n"]
    member: Float[Tensor, "n sequences"]
    rows: Float[Tensor, "n sequences"]

    @classmethod
    def of(
        cls, kernel: Float[Tensor, "n n"], sequence: Int[Tensor, " n"], weight: Float[Tensor, " n"] | None = None
    ) -> "Blocks":
        """Return the blocks of a kernel matrix.

        Args:
            kernel: the entries.
            sequence: the sequence of each sample, any integers.
            weight: weights of the samples, in which all sums are differentiable; None for 1.
        """
        is_member = torch.nn.functional.one_hot(sequence.unique(return_inverse=True)[1]).to(kernel)
        member = is_member if weight is None else is_member * weight[:, None]
        return cls(kernel, member, (kernel @ member) * (1 - is_member))


def block_hsic(x: Blocks, y: Blocks, left_out: Float[Tensor, "n units"] | None = None) -> Float[Tensor, " times"]:
    """Return HSIC over all samples, and then without each unit of whole sequences in turn.

    Args:
        x: the first matrix.
        y: the second matrix, of the same samples in the same sequences.
        left_out: 1 where a sample belongs to a unit that is left out in turn, else 0.
    """
    member, weight = x.member, x.member.sum(1)
    lengths = member.sum(0)
    mean = lengths.mean()
    remains = lengths.new_ones(1, len(lengths))
    if left_out is not None:
        remains = torch.cat([remains, 1 - (left_out.mT @ (member > 0).to(left_out)).clamp(max=1)])
    powers = [remains * (lengths / mean) ** e for e in range(3)]
    products = member.mT @ ((x.kernel * y.kernel) @ member)
    products = products - torch.diag(products.diagonal())
    kernel_x, kernel_y = (member.mT @ side.rows for side in (x, y))
    rows_x, rows_y = ([side.rows @ power.mT for power in powers[:2]] for side in (x, y))
    twice = [(x.rows * y.rows) @ power.mT for power in powers[:2]]
    own = [(member > 0).to(member) @ power.mT * weight[:, None] for power in powers[:2]]

    def different(f: int, g: int) -> Tensor:
        return (powers[f] @ products * powers[g]).sum(1)

    def chain(f: int, g: int, h: int) -> Tensor:
        return (own[g] * (rows_x[f] * rows_y[h] - twice[f + h])).sum(0)

    sums_x, sums_y = (powers[0] @ kernel * powers[0] for kernel in (kernel_x, kernel_y))
    both = (powers[0] @ (kernel_x * kernel_y) * powers[0]).sum(1)
    fours = sums_x.sum(1) * sums_y.sum(1) - 4 * (sums_x * sums_y).sum(1) + 2 * both
    return mean_of_quadruples(powers[1], different, chain, fours, mean)
