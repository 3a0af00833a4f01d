"""A tick of the tracker from width 64 to 4,096 and from 2 to 48 blocks: time and memory beside those of a forward pass.

Random activations stand in for those of a model, 128 x 64 tokens at one site per block; the default measures with error
bars against one reference that changes, without a null and without the forward pass. Each row runs in its own process
on one core, in processor time. `times forward` takes the products of the blocks' weights at the measured rate, for the
probe set alone; `floor` the self sums of two models, one cross product per pair of sites, and for the error bars one
more for each of CKA and Procrustes and each model, without decompositions. Memory is the peak beyond the activations of
both models, in MiB and in float64 matrices of d x d per block.
"""

import resource
import statistics

import torch

import settings
from benchmarks.apart import apart
from benchmarks.timing import cpu_seconds, gemm_rate, show
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import make_plan
from dissimilarity.probe.probe_set import Extent, ProbeSet
from launch.cli.compose import compose

SEQUENCES, LENGTH = 128, 64
CHUNKS = 2
SIZES = ((64, 2), (256, 2), (1024, 2), (4096, 2), (64, 12), (64, 48), (512, 12))
"""Widths and depths."""


def _tick(width: int, depth: int) -> tuple[float, float, float]:
    """Return seconds of a tick, operations per second of products, and bytes beyond the activations."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    sites = [f"blocks.{layer}.resid_post" for layer in range(depth)]
    measures = [settings.instantiate(node) for node in compose([]).measures.values()]
    plan = make_plan(ProbeSet(Extent(SEQUENCES, LENGTH)), measures)

    def activations() -> list[tuple[dict[str, torch.Tensor], range]]:
        units = plan.n_units // CHUNKS
        return [
            (
                {site: torch.randn(SEQUENCES // CHUNKS, LENGTH, width, generator=generator) for site in sites},
                range(chunk * units, (chunk + 1) * units),
            )
            for chunk in range(CHUNKS)
        ]

    now, before = activations(), activations()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def tick() -> None:
        x, y = (ModelActivations(plan, sites, chunks).summed() for chunks in (now, before))
        compare_pair(x, y, list(zip(sites, sites, strict=True)), measures, 0, first_components=False)

    time = statistics.median(cpu_seconds(tick) for _ in range(3 if width < 4096 else 1))
    return time, gemm_rate(clock=cpu_seconds), 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)


def run() -> None:
    """Print the table."""
    rows = []
    for width, depth in SIZES:
        time, rate, memory = apart(_tick, width, depth)
        product = 2 * SEQUENCES * LENGTH * width**2 / rate
        rows.append(
            {
                "width": f"{width:,}",
                "blocks": str(depth),
                "tick, ms": f"{1e3 * time:.0f}",
                "times forward": f"{time / (12 * product * depth):.2f}",
                "times the floor": f"{time / (7 * product * depth):.1f}",
                "memory, MiB": f"{memory / 2**20:.0f}",
                "d x d per block": f"{memory / (8 * width**2 * depth):.1f}",
            }
        )
    show(rows)
