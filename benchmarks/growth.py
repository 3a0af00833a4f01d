"""How a tick, `compare` and `compare_many` grow with tokens, width, depth, references and models: log-log slopes.

Random activations stand in for those of models, with one site per block; the default measures with error bars, and a
null in the comparisons. Each point runs in its own process on one core, in processor time; on a GPU in this process, in
wall time, with the memory of the GPU. Slopes are those of the last doublings or so, between the last two points.
`expected` follows from the operations: sums take n d^2 per pair of sites, decompositions d^3, and mutual kNN, of at
most 1,024 samples, does not grow with tokens. A tick compares blocks of one depth; `compare` all pairs of blocks;
`compare_many` all pairs of models. Memory is the peak beyond the activations. Where a core makes 20 GFLOP/s, width
4,096 alone takes the larger part of an hour: decompositions of 4,096 x 4,096 in float64.
"""

import math
import resource
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import settings
from benchmarks.apart import apart
from benchmarks.timing import cpu_seconds, seconds, show
from dissimilarity import compare
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import make_plan
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.probe_set import Extent, ProbeSet
from launch.cli.compose import compose

LENGTH = 64


class Size(NamedTuple):
    """The size of a piece of work: sequences, width and blocks of each of some models."""

    sequences: int = 128
    width: int = 128
    depth: int = 4
    models: int = 2


class Axis(NamedTuple):
    """What grows: the name of a dimension, its values, and the slopes of time and memory that are expected."""

    name: str
    values: tuple[int, ...]
    time: str
    memory: str


TOKENS = Axis("sequences", (64, 128, 256, 512), "0 to 1", "0 to 1")
AXES = {
    "tick": (
        TOKENS,
        Axis("width", (64, 256, 1024, 4096), "1 to 3", "1 to 2"),
        Axis("depth", (2, 12, 48), "1", "0 to 1"),
        Axis("models", (3, 5, 9), "1", "0"),
    ),
    "compare": (
        TOKENS,
        Axis("width", (64, 256, 1024, 4096), "1 to 3", "1 to 2"),
        Axis("depth", (6, 12, 24, 48), "2", "0 to 2"),
    ),
    "compare_many": (TOKENS, Axis("depth", (2, 4, 8), "2", "0 to 2"), Axis("models", (8, 16, 32, 64), "2", "1 to 2")),
}
"""The dimensions in which each piece of work grows."""

STARTS = {"width": Size(depth=2), "depth": Size(width=64), "models": Size(sequences=64, width=64, depth=2)}
"""The sizes from which a dimension grows, where the default would take too long."""


def activations(size: Size, device: str = "cpu") -> list[dict[str, Tensor]]:
    """Return random activations of some models."""
    generator = torch.Generator(device).manual_seed(0)
    shape = size.sequences, LENGTH, size.width
    sites = [f"blocks.{layer}.resid_post" for layer in range(size.depth)]
    return [
        {site: torch.randn(shape, generator=generator, device=device) for site in sites} for _ in range(size.models)
    ]


def tick(models: list[dict[str, Tensor]], measures: list[Measure]) -> None:
    """Compare the first model with the others at blocks of one depth, as a tick does without its forward pass."""
    now, *references = models
    sites, sequences = list(now), len(next(iter(now.values())))
    plan = make_plan(ProbeSet(Extent(sequences, LENGTH)), measures)
    model = ModelActivations(plan, sites, [(now, range(plan.n_units))]).summed()
    for reference in references:
        other = ModelActivations(plan, sites, [(reference, range(plan.n_units))]).summed()
        compare_pair(model, other, list(zip(sites, sites, strict=True)), measures, 0, first_components=False)


WORK: dict[str, Callable[[list[dict[str, Tensor]], list[Measure]], object]] = {
    "tick": tick,
    "compare": lambda models, measures: compare(models[0], models[1], measures=measures),
    "compare_many": lambda models, measures: compare_many(
        {f"model {number}": model for number, model in enumerate(models)}, measures=measures
    ),
}


def measured(name: str, size: Size) -> tuple[float, float]:
    """Return the seconds that a piece of work takes, and the bytes beyond the activations."""
    torch.set_num_threads(1)
    measures = default_measures()
    WORK[name](activations(Size(sequences=16, width=16, depth=1)), measures)  # what is done once per process
    models = activations(size)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    time = cpu_seconds(lambda: WORK[name](models, measures))
    return time, 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)


def measured_on_gpu(name: str, size: Size) -> tuple[float, float]:
    """Return the seconds that a piece of work takes on a GPU, and the bytes there beyond the activations."""
    measures = default_measures()
    WORK[name](activations(Size(), "cuda"), measures)  # loads what it runs there
    models = activations(size, "cuda")
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    time = seconds(lambda: WORK[name](models, measures))
    return time, torch.cuda.max_memory_allocated() - base


def default_measures() -> list[Any]:
    """Return the measures that a run has by default."""
    return [settings.instantiate(node) for node in compose([]).measures.values()]


def run(device: str = "cpu") -> None:
    """Print a table per piece of work and dimension, each when it is there."""
    for name, axes in AXES.items():
        for axis in axes:
            show(rows_of(name, axis, device))


def rows_of(name: str, axis: Axis, device: str) -> list[dict[str, str]]:
    """Return one row per value of an axis, with the slopes from the value before."""
    rows: list[dict[str, str]] = []
    before: tuple[int, float, float] | None = None
    for value in axis.values:
        print(f"{name}, {axis.name} {value:,} ...", file=sys.stderr)
        size = STARTS.get(axis.name, Size())._replace(**{axis.name: value})
        time, memory = measured_on_gpu(name, size) if device == "cuda" else apart(measured, name, size)
        slopes = ("", "")
        if before is not None:
            doublings = math.log(value / before[0])
            pairs = (time, before[1]), (memory, before[2])
            slopes = tuple(
                f"{math.log(now / then) / doublings:.1f}" if min(now, then) > 0 else "" for now, then in pairs
            )
        rows.append(
            {
                "": name,
                "grows with": f"{axis.name} {value:,}",
                "s" if device == "cuda" else "CPU s": f"{time:.3g}",
                "slope": slopes[0],
                "expected": axis.time,
                "MiB": f"{memory / 2**20:.0f}",
                "slope of memory": slopes[1],
                "expected there": axis.memory,
            }
        )
        before = value, time, memory
    return rows
