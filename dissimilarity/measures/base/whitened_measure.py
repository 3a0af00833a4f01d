"""Moment measures that divide by the covariance of a side, and so need every dimension of it to full precision."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.moments.pair import Rows, between_rows, mean, prepared_rows


class WhitenedMeasure(MomentMeasure):
    """A moment measure that whitens a side.

    Rows less than twice as many as dimensions are few, and leave directions of so little variance that float32 products
    would lose them: their products are taken in float64. Where they are no more than dimensions, and the value does not
    change under rotation, they are first written in coordinates along their own principal directions, (n, rank) instead
    of (n, p).
    """

    def prepare(self, x: Float[Tensor, "n p"]) -> Rows:
        """Rows about their mean, and their sums."""
        if len(x) <= x.shape[1] and "orthogonal" in self.invariant_to:
            return prepared_rows(principal_coordinates(x))
        return prepared_rows(x.double() if len(x) < 2 * x.shape[1] else x)

    def between(self, x: Rows, y: Rows) -> Float[Tensor, ""]:
        """The value of two prepared sides, in the precision of the more precise one."""
        dtype = torch.promote_types(x.rows.dtype, y.rows.dtype)
        return self.from_moments(between_rows(*(replace(side, rows=side.rows.to(dtype)) for side in (x, y))))


def principal_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n rank"]:
    """The rows about their mean, n <= p of them, along their principal directions, without those of rounding alone."""
    rows = x.double() - mean(x)
    left, sizes, _ = torch.linalg.svd(torch.linalg.qr(rows.T, mode="r").R.T)
    return (left * sizes)[:, sizes > sizes[0] * max(x.shape) * torch.finfo(x.dtype).eps]
