"""Memory of an all-pairs comparison beyond the features of one batch, as the number of tokens grows.

Two stacks of width 256, with 12 and 4 layers (random features with the shapes of a language model, made batch by batch,
so that the number is that of the accumulators and not of a model), 16 jackknife units, value, error bar and null of
debiased CKA.
"""

import resource

import torch

from benchmarks.apart import apart
from benchmarks.timing import show
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.measures.cka import CKA
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SequenceLengths

WIDTH, SEQUENCES, LENGTH, GROUPS = 256, 32, 128, 16
SIZES = ((12, 16_384), (12, 65_536), (4, 16_384), (4, 131_072), (4, 1_048_576))
"""Layers and tokens."""


def _peak(layers: int, tokens: int) -> tuple[float, float]:
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    sites = [f"blocks.{layer}.resid_post" for layer in range(layers)]

    def batch() -> dict[str, torch.Tensor]:
        return {site: torch.randn(SEQUENCES, LENGTH, WIDTH, generator=generator) for site in sites}

    acts = batch(), batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = tokens // (SEQUENCES * LENGTH)
    units = torch.arange(batches).repeat_interleave(SEQUENCES) * GROUPS // batches
    x, y = (Side(SequenceLengths(units)) for _ in acts)
    pairs = [(a, b) for a in sites for b in sites]
    cross, null = Cross(pairs, GROUPS), Cross(pairs)
    for index in range(batches):
        group = index * GROUPS // batches
        left, right = (side.add(part, range(group, group + 1)) for side, part in zip((x, y), acts, strict=True))
        cross.add(left, right)
        null.add(left.deranged(), right)
        for part in acts:
            for tensor in part.values():
                tensor.normal_(generator=generator)
    rows = evaluate([CKA()], x.close(), y.close(), cross.close(), null.close())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(rows) == len(pairs)
    return before / 2**20, (after - before) / 2**20


def run() -> None:
    """Print peak memory by number of tokens, each in its own process."""
    rows = []
    for layers, tokens in SIZES:
        before, more = apart(_peak, layers, tokens)
        rows.append(
            {
                "layers": str(layers),
                "tokens": f"{tokens:,}",
                "before, GiB": f"{before:.2f}",
                "all pairs above it, GiB": f"{more:.2f}",
            }
        )
    show(rows)
