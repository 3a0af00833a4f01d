"""Nearest neighbors by cosine."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.measures.numerics.distances import EXACT_SAMPLES, SAMPLES_AT_ONCE, exact_distances
from dissimilarity.measures.numerics.ranks import ROUNDING
from dissimilarity.moments.products import full_float32, sum_device


@dataclass(frozen=True)
class Neighbors:
    """The neighbor lists of one side.

    Attributes:
        nearest: somewhat more than k neighbors of each sample, nearest first.
        samples: centered unit-length samples, float64, from which longer lists can be made.
        sequence: the sequence of each sample, whose other samples are no neighbors; None where they are.
    """

    nearest: Int[Tensor, "n listed"]
    samples: Float[Tensor, "n p"]
    sequence: Int[Tensor, " n"] | None = None

    def rearranged(self, order: Int[Tensor, " n"]) -> "Neighbors":
        """Return the lists of the rearranged samples, with neighbors renumbered in the same way."""
        order = order.to(self.samples.device)
        sequence = None if self.sequence is None else self.sequence[order]
        return Neighbors(order.argsort()[self.nearest[order]], self.samples[order], sequence)


def nearest_neighbors(
    x: Float[Tensor, "n p"], k: int, at_once: int = SAMPLES_AT_ONCE, sequence: Int[Tensor, " n"] | None = None
) -> Int[Tensor, "n k"]:
    """Return the indices of each sample's k nearest neighbors by cosine, ascending. Ties go to the lower index.

    Samples are neither centered nor clamped. The diagonal is masked, so duplicates of a sample are its neighbors. With
    the sequence of each sample, the others of its own sequence are masked too.
    """
    check_neighbors(len(x), k, sequence)
    ranked = ranked_neighbors(normalized_samples(x), k, k, x.dtype == torch.float32, at_once, sequence)
    return ranked.sort(1).values


def others(n: int, sequence: Int[Tensor, " n"] | None) -> int:
    """Return how many samples can be neighbors of each one, at least: all but itself, or but its own sequence."""
    return n - (1 if sequence is None else int(sequence.unique(return_counts=True)[1].max()))


def check_neighbors(n: int, k: int, sequence: Int[Tensor, " n"] | None = None) -> None:
    """Raise ValueError unless there are more than k other samples, so that they are not the neighbors in any model."""
    if n < k + 2:
        raise ValueError(f"too few samples: have {n}, {k} nearest neighbors need at least {k + 2}")
    if (others_of_sequence := others(n, sequence)) <= k:
        raise ValueError(
            f"too few samples of other sequences: have {others_of_sequence}, {k} nearest neighbors need {k + 1}; pass "
            "more sequences, or take neighbors of the own sequence too (own_sequence=True)"
        )


def normalized_samples(x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Return float64 unit-length samples about their mean. Their distances are ordered as the cosines are."""
    samples = x.detach().to(sum_device(x.device), torch.float64, copy=True)
    low, high = samples.aminmax(dim=1, keepdim=True)
    largest = torch.maximum(-low, high)
    zero = int((largest == 0).sum())
    if zero:
        raise ValueError(f"{zero} samples are zero, which have no direction to compare by cosine")
    # Divide by the largest entry first: otherwise the squares could overflow or vanish.
    samples /= largest
    samples /= samples.norm(dim=1, keepdim=True)
    return samples.sub_(samples.mean(0))


def ranked_neighbors(
    samples: Float[Tensor, "n p"],
    k: int,
    listed: int,
    single: bool = False,
    at_once: int = SAMPLES_AT_ONCE,
    sequence: Int[Tensor, " n"] | None = None,
) -> Int[Tensor, "n listed"]:
    """Return the nearest neighbors of each sample, nearest first; the first k are exact.

    Nearness comes from products, in float32 if that is precise enough. Samples whose k-th and next neighbor differ by
    no more than rounding are ranked again by exact distances, where ties go to the lower index.

    Args:
        samples: from ``normalized_samples``.
        k: neighbors that must be exact.
        listed: neighbors to return.
        single: whether float32 products may be used.
        at_once: samples per product.
        sequence: the sequence of each sample, whose other samples are left out; None to leave out none.
    """
    n = len(samples)
    used = samples.float() if single and n > EXACT_SAMPLES else samples
    norms = torch.linalg.vecdot(samples, samples).to(used.dtype)
    rounding = 8 * torch.finfo(used.dtype).eps * (norms + norms.max())
    lists, unclear, space = [], [], used.new_empty(min(at_once, n) * n)
    for start in range(0, n, at_once):
        block = slice(start, min(start + at_once, n))
        nearness = space[: (block.stop - start) * n].view(-1, n)
        with full_float32(samples.device):
            torch.addmm(norms, used[block], used.T, beta=-1, alpha=2, out=nearness)
        nearness.diagonal(start)[:] = float("-inf")
        if sequence is not None:
            nearness.masked_fill_(sequence[block, None] == sequence, float("-inf"))
        values, indices = nearness.topk(min(listed + 1, n))
        lists.append(indices[:, :listed])
        if k < n - 1:
            unclear.append(values[:, k - 1] - values[:, k] <= rounding[block])
    nearest = torch.cat(lists)
    if unclear:
        for index in torch.cat(unclear).nonzero()[:, 0].split(at_once):
            nearest[index] = _exactly_ranked(samples, index, k, listed, sequence)
    return nearest


def _exactly_ranked(
    samples: Float[Tensor, "n p"],
    index: Int[Tensor, " m"],
    k: int,
    listed: int,
    sequence: Int[Tensor, " n"] | None,
) -> Int[Tensor, "m listed"]:
    """Return the lists of the samples at ``index``, from exact distances."""
    distances = exact_distances(samples, index)
    distances[torch.arange(len(index), device=index.device), index] = float("inf")
    if sequence is not None:
        distances.masked_fill_(sequence[index, None] == sequence, float("inf"))
    kth = distances.kthvalue(k, dim=1, keepdim=True).values
    distances = torch.where((distances - kth).abs() <= ROUNDING * kth + ROUNDING**2, kth, distances)
    last = distances.kthvalue(listed, dim=1, keepdim=True).values
    nearer, tied = distances < last, distances == last
    is_listed = nearer | (tied & (tied.cumsum(1) <= listed - nearer.sum(1, keepdim=True)))
    lists = is_listed.nonzero()[:, 1].view(-1, listed)
    return lists.gather(1, distances.gather(1, lists).argsort(dim=1, stable=True))


def common_neighbors(x: Int[Tensor, "n k"], y: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """Return how many neighbors of each sample two sides have in common."""
    return (x[:, :, None] == y[:, None, :]).any(-1).sum(-1)
