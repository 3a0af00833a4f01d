"""Inner products of centered symmetric matrices of pairs: what distance covariance and HSIC are.

For A, B of row sums a, b, the double-centered inner product is sum AB - 2/n sum_i a_i b_i + (sum a)(sum b) / n^2, and
the U-centered one, of matrices with a diagonal of zeros, sum AB - 2/(n-2) sum_i a_i b_i +
(sum a)(sum b) / ((n-1)(n-2)): no centered matrix is formed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.numerics.distances import dot, rearranged, row_sums, square


@dataclass(frozen=True)
class Matrix:
    """A symmetric matrix of n rows with one value on its diagonal.

    Attributes:
        pairs: the entries above the diagonal, less a constant that centering takes away.
        diagonal: the value on the diagonal, less the same; 0 where U-centering leaves the diagonal out.
        sums: float64 row sums.
        squares: sum of the squares of all entries.
        shift: that constant.
    """

    pairs: Float[Tensor, " pairs"]
    diagonal: float
    sums: Float[Tensor, " n"]
    squares: Float[Tensor, ""]
    shift: float = 0.0

    def rearranged(self, order: Int[Tensor, " n"]) -> "Matrix":
        """The matrix of the rows in another order."""
        return Matrix(
            rearranged(self.pairs, order),
            self.diagonal,
            self.sums[order.to(self.sums.device)],
            self.squares,
            self.shift,
        )


def matrix(pairs: Float[Tensor, " pairs"], n: int, diagonal: float = 0.0, shift: float = 0.0) -> Matrix:
    """A matrix with its row sums."""
    squares = 2 * dot(pairs, pairs) + n * diagonal**2
    return Matrix(pairs, diagonal, row_sums(pairs, n) + diagonal, squares, shift)


def alignment(x: Matrix, y: Matrix, unbiased: bool, weight: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """<X, Y> / sqrt(<X, X> <Y, Y>) of two centered matrices.

    Args:
        unbiased: U-centered, or double-centered.
        weight: of the samples, in which the value is differentiable.

    Raises:
        ValueError: a self term is of the size of rounding, so that there is nothing to compare.
    """
    if weight is None:
        cross, self_x, self_y = (_inner(a, b, unbiased) for a, b in ((x, y), (x, x), (y, y)))
    else:
        a, b = (square(m.pairs, len(m.sums), m.diagonal) for m in (x, y))
        cross, self_x, self_y = (_weighted(u, v, unbiased, weight) for u, v in ((a, b), (a, a), (b, b)))
    for own, side, name in ((self_x, x, "x"), (self_y, y, "y")):
        size = side.squares + 2 * len(side.pairs) * side.shift**2
        if not bool(own > 1e-14 * size):
            raise ValueError(
                f"the {'unbiased ' if unbiased else ''}self term of {name} is zero: its samples are all equally far "
                "apart, so there is nothing to compare"
            )
    return cross / (self_x * self_y).sqrt()


def _inner(x: Matrix, y: Matrix, unbiased: bool) -> Float[Tensor, ""]:
    n = len(x.sums)
    trace = x.squares if x is y else 2 * dot(x.pairs, y.pairs) + n * x.diagonal * y.diagonal
    return centered_product(trace.new_tensor(n), trace, x.sums @ y.sums, x.sums.sum(), y.sums.sum(), unbiased)


def left_out_terms(
    a: Float[Tensor, "n n"], b: Float[Tensor, "n n"], unbiased: bool, member: Float[Tensor, "n groups"]
) -> tuple[Float[Tensor, "3 groups"], Float[Tensor, " groups"]]:
    """Inner products of A and B, of A and of B, without each group of samples, and how many samples are left.

    All groups from one pass over the matrices.

    Args:
        a, b: the matrices.
        unbiased: as in ``alignment``.
        member: 1 where a sample is of the group, else 0.
    """
    n = len(member) - member.sum(0)
    # What remains of each row's sum without each group.
    rows_a, rows_b = ((m.sum(1, keepdim=True) - m @ member) * (1 - member) for m in (a, b))

    def inner(u: Tensor, v: Tensor, rows_u: Tensor, rows_v: Tensor) -> Tensor:
        blocks = member.T @ ((u * v) @ member)
        trace = blocks.sum() - 2 * blocks.sum(1) + blocks.diagonal()
        return centered_product(n, trace, (rows_u * rows_v).sum(0), rows_u.sum(0), rows_v.sum(0), unbiased)

    of = ((a, b, rows_a, rows_b), (a, a, rows_a, rows_a), (b, b, rows_b, rows_b))
    return torch.stack([inner(*one) for one in of]), n


def left_out(x: Matrix, y: Matrix, unbiased: bool, group: Int[Tensor, " n"]) -> Float[Tensor, " groups"]:
    """The alignment without each group of samples."""
    a, b = (square(m.pairs, len(m.sums), m.diagonal) for m in (x, y))
    (cross, self_x, self_y), _ = left_out_terms(a, b, unbiased, members(group.to(a.device)))
    return cross / (self_x * self_y).sqrt()


def members(group: Int[Tensor, " n"]) -> Float[Tensor, "n groups"]:
    """1 where a sample is of a group, else 0."""
    return torch.nn.functional.one_hot(group).double()


def _weighted(x: Tensor, y: Tensor, unbiased: bool, weight: Tensor) -> Float[Tensor, ""]:
    a, b, ab = x @ weight, y @ weight, (x * y) @ weight
    return centered_product(weight.sum(), weight @ ab, weight @ (a * b), weight @ a, weight @ b, unbiased)


def centered_product(
    n: Tensor, trace: Tensor, chain: Tensor, total_x: Tensor, total_y: Tensor, unbiased: bool
) -> Float[Tensor, "*batches"]:
    """From sum AB, sum_i a_i b_i, sum a and sum b."""
    if unbiased:
        return trace - 2 / (n - 2) * chain + total_x * total_y / ((n - 1) * (n - 2))
    return trace - 2 / n * chain + total_x * total_y / n**2
