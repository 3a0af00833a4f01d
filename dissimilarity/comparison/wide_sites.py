"""Sites with more features than samples, in coordinates of the samples' span.

n samples of p > n features lie in n dimensions, and a rotation into these changes no measure that is invariant to
rotations. Sums over samples then take n x n numbers instead of p x p.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.comparison.plan import Plan
from dissimilarity.moments.products import as_samples, sum_device

WIDE = 1024
"""Features up to which the sums of a site are small enough as they are."""

Chunks = Iterable[tuple[Mapping[str, Tensor], range]]


def in_span(chunks: Chunks, plan: Plan, sites: Sequence[str]) -> Chunks:
    """Return chunks of activations with wide sites in coordinates of their span.

    If a model has such a site, all its chunks are in memory together, which takes less memory than one of its sums.

    Args:
        chunks: all chunks of the probe set, by site and with their units; an iterator is read once.
        plan: how the probe set is read; nothing changes if a measure is not invariant to rotations.
        sites: sites that are compared.
    """
    if not plan.moments or not plan.rotatable:
        return chunks
    if isinstance(chunks, Iterator):
        return _rotated(chunks, plan, sites)
    first = next(iter(chunks), None)
    wide = first is not None and any(site in sites for site in wide_sites(first[0], plan))
    return list(_rotated(chunks, plan, sites)) if wide else chunks


def wide_sites(acts: Mapping[str, Tensor], plan: Plan) -> list[str]:
    """Return the sites that have more features than samples, and enough features for large sums."""
    return [site for site, act in acts.items() if WIDE < act.shape[-1] > _samples(act, plan)]


def _rotated(chunks: Chunks, plan: Plan, sites: Sequence[str]) -> Iterator[tuple[Mapping[str, Tensor], range]]:
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return
    wide = [site for site in wide_sites(first[0], plan) if site in sites]
    if not wide:
        yield from chain([first], chunks)
        return
    all_chunks = [first, *chunks]
    acts = [dict(chunk) for chunk, _ in all_chunks]
    for site in wide:
        parts = [chunk[site] for chunk in acts]
        rows = span_coordinates(torch.cat([as_samples(part) for part in parts]))
        sizes = [part[..., 0].numel() for part in parts]
        for chunk, part, samples in zip(acts, parts, rows.split(sizes), strict=True):
            chunk[site] = samples.reshape(*part.shape[:-1], -1)
    yield from ((chunk, units) for chunk, (_, units) in zip(acts, all_chunks, strict=True))


def _samples(activation: Tensor, plan: Plan) -> int:
    """Return how many samples a site has in the whole probe set."""
    if activation.ndim > 2 and plan.lengths.counts is not None:
        return int(plan.lengths.counts.sum())
    return len(plan.lengths.units) * activation[0, ..., 0].numel()


def span_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return samples in an orthonormal basis of their span.

    A sample with k values that are not finite gets k NaN.

    >>> x = torch.randn(3, 50, dtype=torch.float64)
    >>> rows = span_coordinates(x)
    >>> rows.shape, bool(torch.allclose(rows @ rows.T, x @ x.T))
    (torch.Size([3, 3]), True)
    """
    finite = x.isfinite()
    doubles = torch.where(finite, x, 0).to(sum_device(x.device)).double()
    rows = torch.linalg.qr(doubles.T, mode="r").R.T  # rounded to the samples' precision, they would move values
    if bool((doubles == doubles[:1]).all()):
        rows = rows[:1].expand_as(rows)  # equal samples stay equal to the last bit
    faulty = (~finite).sum(1, keepdim=True).to(rows.device)
    return torch.where(torch.arange(len(x), device=rows.device) < faulty, torch.nan, rows)
