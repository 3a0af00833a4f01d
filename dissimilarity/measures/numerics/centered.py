"""Inner products of centered symmetric matrices of pairs, as in distance covariance and HSIC.

For A, B with row sums a, b, the double-centered inner product is sum AB - 2/n sum_i a_i b_i + (sum a)(sum b) / n^2.
The U-centered one, of matrices with a zero diagonal, is sum AB - 2/(n-2) sum_i a_i b_i +
(sum a)(sum b) / ((n-1)(n-2)). No centered matrix is formed.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.numerics.blocks import Blocks, block_hsic
from dissimilarity.measures.numerics.distances import dot, rearranged_pairs, row_sums, square
from dissimilarity.measures.numerics.hsic import MINIMUM


@dataclass(frozen=True)
class Matrix:
    """A symmetric n x n matrix with one value on its diagonal.

    Attributes:
        pairs: the entries above the diagonal, minus a constant that centering removes.
        diagonal: the value on the diagonal, minus the same constant; 0 where U-centering leaves the diagonal out.
        sums: float64 row sums.
        squares: sum of the squares of all entries.
        offset: that constant.
        sequence: the sequence of each sample, where whole sequences are the units.
    """

    pairs: Float[Tensor, " pairs"]
    diagonal: float
    sums: Float[Tensor, " n"]
    squares: Float[Tensor, ""]
    offset: float = 0.0
    sequence: Int[Tensor, " n"] | None = None

    def rearranged(self, order: Int[Tensor, " n"]) -> "Matrix":
        """Return the matrix of the samples in another order."""
        return Matrix(
            self.pairs.index_select(0, rearranged_pairs(order.to(self.pairs.device))),
            self.diagonal,
            self.sums[order.to(self.sums.device)],
            self.squares,
            self.offset,
            self.sequence,
        )


def matrix(pairs: Float[Tensor, " pairs"], n: int, diagonal: float = 0.0, offset: float = 0.0) -> Matrix:
    """Return a matrix with its row sums."""
    squares = 2 * dot(pairs, pairs) + n * diagonal**2
    return Matrix(pairs, diagonal, row_sums(pairs, n) + diagonal, squares, offset)


def alignment(x: Matrix, y: Matrix, unbiased: bool, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """Return <X, Y> / sqrt(<X, X> <Y, Y>) of two centered matrices.

    If the first one has sequences, these are the units of the unbiased products.

    Args:
        x: the first matrix.
        y: the second matrix.
        unbiased: whether to U-center them, not double-center.
        weight: weights of the samples, in which the value is differentiable.

    Raises:
        ValueError: a self term is no larger than rounding, so there is nothing to compare.
    """
    if unbiased and weight is not None and x.sequence is None:  # weights are those of samples in quadruples
        x = replace(x, sequence=torch.arange(len(x.sums)))
    if unbiased and x.sequence is not None:
        return alignment_of_sequences(x, y, weight=weight)[0]
    if weight is None:
        cross, self_x, self_y = (_inner(a, b, unbiased) for a, b in ((x, y), (x, x), (y, y)))
    else:
        a, b = (square(m.pairs, len(m.sums), m.diagonal) for m in (x, y))
        cross, self_x, self_y = (_weighted(u, v, weight) for u, v in ((a, b), (a, a), (b, b)))
    for self_term, side, name in ((self_x, x, "x"), (self_y, y, "y")):
        size = side.squares + 2 * len(side.pairs) * side.offset**2
        if not bool(self_term > 1e-14 * size):
            raise ValueError(
                f"the {'unbiased ' if unbiased else ''}self term of {name} is zero: its samples are all equally far "
                "apart, so there is nothing to compare"
            )
    return cross / (self_x * self_y).sqrt()


def alignment_of_sequences(
    x: Matrix, y: Matrix, unit: Int[Tensor, " n"] | None = None, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " times"]:
    """Return the alignment with sequences as units, and then the same without each jackknife unit in turn.

    The sequences are those of the first matrix.

    Raises:
        ValueError: fewer than four sequences, or a self term that is not positive.
    """
    assert x.sequence is not None
    sequence = x.sequence.to(x.pairs.device)
    check_sequences(len(sequence.unique()))
    a, b = (Blocks.of(square(m.pairs, len(m.sums)), sequence, weight) for m in (x, y))
    left_out = None if unit is None else members(unit.to(x.pairs.device))
    cross, self_x, self_y = (block_hsic(u, v, left_out) for u, v in ((a, b), (a, a), (b, b)))
    for self_term, side, name in ((self_x, x, "x"), (self_y, y, "y")):
        if not bool(self_term[0] > 1e-14 * side.squares / len(sequence) ** 2):
            raise ValueError(
                f"the unbiased self term of {name} is not positive, so there is nothing to divide by: its samples are "
                "all equally far apart, or too few sequences tell them apart; pass more sequences"
            )
    return cross / (self_x * self_y).sqrt()


def check_sequences(have: int) -> None:
    """Raise ValueError if there are too few sequences for an estimator whose units they are."""
    if have < MINIMUM:
        raise ValueError(
            f"too few sequences: have {have}, the measure needs at least {MINIMUM}; pass more, or leave out units "
            "(of a measure: units='sample') to take samples for independent"
        )


def _inner(x: Matrix, y: Matrix, unbiased: bool) -> Float[Tensor, ""]:
    n = len(x.sums)
    trace = x.squares if x is y else 2 * dot(x.pairs, y.pairs) + n * x.diagonal * y.diagonal
    return centered_product(trace.new_tensor(n), trace, x.sums @ y.sums, x.sums.sum(), y.sums.sum(), unbiased)


def left_out_terms(
    a: Float[Tensor, "n n"], b: Float[Tensor, "n n"], unbiased: bool, member: Float[Tensor, "n units"]
) -> tuple[Float[Tensor, "3 units"], Float[Tensor, " units"]]:
    """Return <A, B>, <A, A> and <B, B> without each jackknife unit, and how many samples remain.

    One pass over the matrices serves all units.

    Args:
        a: the first matrix.
        b: the second matrix.
        unbiased: as in ``alignment``.
        member: 1 if a sample belongs to the unit, else 0.
    """
    n = len(member) - member.sum(0)
    # Each row's sum without each unit.
    sums_a, sums_b = ((m.sum(1, keepdim=True) - m @ member) * (1 - member) for m in (a, b))

    def inner(u: Tensor, v: Tensor, sums_u: Tensor, sums_v: Tensor) -> Tensor:
        blocks = member.T @ ((u * v) @ member)
        trace = blocks.sum() - 2 * blocks.sum(1) + blocks.diagonal()
        return centered_product(n, trace, (sums_u * sums_v).sum(0), sums_u.sum(0), sums_v.sum(0), unbiased)

    products = ((a, b, sums_a, sums_b), (a, a, sums_a, sums_a), (b, b, sums_b, sums_b))
    return torch.stack([inner(*arguments) for arguments in products]), n


def aligned_without(
    x: Matrix, y: Matrix, unbiased: bool, unit: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
    """Return the alignment, and the same without each jackknife unit in turn."""
    if unbiased and x.sequence is not None:
        values = alignment_of_sequences(x, y, unit)
        return values[0], values[1:]
    a, b = (square(m.pairs, len(m.sums), m.diagonal) for m in (x, y))
    (cross, self_x, self_y), _ = left_out_terms(a, b, unbiased, members(unit.to(a.device)))
    return alignment(x, y, unbiased), cross / (self_x * self_y).sqrt()


def members(unit: Int[Tensor, " n"]) -> Float[Tensor, "n units"]:
    """Return 1 where a sample belongs to a unit, else 0."""
    return torch.nn.functional.one_hot(unit).double()


def _weighted(x: Tensor, y: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Return the double-centered inner product with weights."""
    a, b, ab = x @ weight, y @ weight, (x * y) @ weight
    return centered_product(weight.sum(), weight @ ab, weight @ (a * b), weight @ a, weight @ b, unbiased=False)


def centered_product(
    n: Tensor, trace: Tensor, chain: Tensor, total_x: Tensor, total_y: Tensor, unbiased: bool
) -> Float[Tensor, "*batches"]:
    """Return the centered inner product from sum AB, sum_i a_i b_i, sum a and sum b."""
    if unbiased:
        return trace - 2 / (n - 2) * chain + total_x * total_y / ((n - 1) * (n - 2))
    return trace - 2 / n * chain + total_x * total_y / n**2
