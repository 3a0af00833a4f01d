"""Nearest neighbors by cosine."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.numerics.distances import EXACT_ROWS, ROWS_AT_ONCE, exact_distances
from dissimilarity.measures.numerics.ranks import ROUNDING
from dissimilarity.moments.products import full_float32, sum_device


@dataclass(frozen=True)
class Neighbors:
    """One side.

    Attributes:
        nearest: some more than k other rows of each row, nearest first.
        rows: unit rows about their mean, float64, to find more.
    """

    nearest: Int[Tensor, "n many"]
    rows: Float[Tensor, "n p"]

    def rearranged(self, order: Int[Tensor, " n"]) -> "Neighbors":
        """Lists of the rearranged rows: the neighbors are renamed with the rows."""
        order = order.to(self.rows.device)
        return Neighbors(order.argsort()[self.nearest[order]], self.rows[order])


def nearest_neighbors(x: Float[Tensor, "n p"], k: int, rows_at_once: int = ROWS_AT_ONCE) -> Int[Tensor, "n k"]:
    """Indices of each row's k nearest other rows by cosine, ascending; of equally near ones the lower index.

    Rows are neither centered nor clamped; the diagonal is masked, so duplicates of a row are neighbors of it.
    """
    check_neighbors(len(x), k)
    return ranked_neighbors(unit_rows(x), k, k, x.dtype == torch.float32, rows_at_once).sort(1).values


def check_neighbors(n: int, k: int) -> None:
    """Raises ValueError where there are no k other rows."""
    if n <= k:
        raise ValueError(f"too few samples: have {n}, {k} nearest neighbors need at least {k + 1}")


def unit_rows(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Float64 rows of unit length about their mean: the order of their distances is that of the cosines."""
    rows = x.detach().to(sum_device(x.device), torch.float64, copy=True)
    low, high = rows.aminmax(dim=1, keepdim=True)
    largest = torch.maximum(-low, high)
    zero = int((largest == 0).sum())
    if zero:
        raise ValueError(f"{zero} rows are zero, which have no direction to compare by cosine")
    # By the largest entry first, lest the squares overflow or vanish.
    rows /= largest
    rows /= rows.norm(dim=1, keepdim=True)
    return rows.sub_(rows.mean(0))


def ranked_neighbors(
    rows: Float[Tensor, "n p"], k: int, many: int, single: bool = False, rows_at_once: int = ROWS_AT_ONCE
) -> Int[Tensor, "n many"]:
    """The ``many`` nearest other rows of each row, nearest first, of which the first k are right beyond rounding.

    Distances come from products, in float32 where that will do; rows whose k-th and next neighbor differ by no more
    than rounding are taken again from exact distances, in which ties go to the lower index.
    """
    n = len(rows)
    used = rows.float() if single and n > EXACT_ROWS else rows
    norms = torch.linalg.vecdot(rows, rows).to(used.dtype)
    rounding = 8 * torch.finfo(used.dtype).eps * (norms + norms.max())
    found, unclear, space = [], [], used.new_empty(min(rows_at_once, n) * n)
    for start in range(0, n, rows_at_once):
        of = slice(start, min(start + rows_at_once, n))
        nearness = space[: (of.stop - start) * n].view(-1, n)
        with full_float32(rows.device):
            torch.addmm(norms, used[of], used.T, beta=-1, alpha=2, out=nearness)
        nearness.diagonal(start)[:] = float("-inf")
        values, indices = nearness.topk(min(many + 1, n))
        found.append(indices[:, :many])
        if k < n - 1:
            unclear.append(values[:, k - 1] - values[:, k] <= rounding[of])
    nearest = torch.cat(found)
    if unclear:
        for again in torch.cat(unclear).nonzero()[:, 0].split(rows_at_once):
            nearest[again] = _exactly_ranked(rows, again, k, many)
    return nearest


def _exactly_ranked(rows: Float[Tensor, "n p"], of: Int[Tensor, " m"], k: int, many: int) -> Int[Tensor, "m many"]:
    away = exact_distances(rows, of)
    away[torch.arange(len(of), device=of.device), of] = float("inf")
    kth = away.kthvalue(k, dim=1, keepdim=True).values
    away = torch.where((away - kth).abs() <= ROUNDING * kth, kth, away)
    last = away.kthvalue(many, dim=1, keepdim=True).values
    nearer, tied = away < last, away == last
    chosen = nearer | (tied & (tied.cumsum(1) <= many - nearer.sum(1, keepdim=True)))
    lists = chosen.nonzero()[:, 1].view(-1, many)
    return lists.gather(1, away.gather(1, lists).argsort(dim=1, stable=True))


def common_neighbors(x: Int[Tensor, "n k"], y: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """How many neighbors of each row two sides have in common."""
    return (x[:, :, None] == y[:, None, :]).any(-1).sum(-1)
