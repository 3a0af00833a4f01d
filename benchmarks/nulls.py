"""200 rearrangements of the null against one value with its error bar and its null, at the tracker's size.

One pair of sites on sequences of 64 tokens, both sides summed beforehand. On 32 sequences, linear CKA takes products of
n x n kernels once (``measures.numerics.rearranged_hsic``); neighbor lists are only renumbered. The others take their
sums and decompositions in each rearrangement; their cost is that of ten of these, times 20.
"""

import statistics

import torch

from benchmarks.timing import interleaved, seconds, show
from dissimilarity import CKA, MutualKNN, Procrustes
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.nulls import rearranged_values
from dissimilarity.comparison.plan import make_plan
from dissimilarity.comparison.rearranged import Circles
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.probe_set import Extent, ProbeSet

LENGTH, NULLS, FEW = 64, 200, 10
SIZES = ((32, 128), (32, 512), (128, 512))
"""Sequences and features."""
PAIRS = [("s", "s")]


def models(measure: Measure, sequences: int, width: int) -> list[ModelActivations]:
    """Return two models with their sums."""
    plan = make_plan(ProbeSet(Extent(sequences, LENGTH)), [measure])
    generator = torch.Generator().manual_seed(0)
    acts = [{"s": torch.randn(sequences, LENGTH, width, generator=generator)} for _ in range(2)]
    return [ModelActivations(plan, ["s"], [(site, range(plan.n_units))]).summed() for site in acts]


def run() -> None:
    """Print milliseconds and their ratio."""
    rows = []
    for sequences, width in SIZES:
        for measure, count in ((CKA(), NULLS if sequences < 128 else FEW), (Procrustes(), FEW), (MutualKNN(), NULLS)):
            x, y = models(measure, sequences, width)

            def value(x: ModelActivations = x, y: ModelActivations = y, measure: Measure = measure) -> None:
                x.side.prepared.clear()
                y.side.prepared.clear()
                compare_pair(x, y, PAIRS, [measure], first_components=False)

            def nulls(
                x: ModelActivations = x, y: ModelActivations = y, measure: Measure = measure, count: int = count
            ) -> None:
                rearranged_values([measure], x, y, PAIRS, Circles(x.plan.lengths, count))

            figures = interleaved({"value": lambda: seconds(value), "nulls": lambda: seconds(nulls)}, rounds=7)
            one, many = (statistics.median(figures[name]) for name in ("value", "nulls"))
            many *= NULLS / count
            rows.append(
                {
                    "": f"{sequences} x {LENGTH}, d {width}: {measure.label}",
                    "one value, ms": f"{1e3 * one:.0f}",
                    f"{NULLS} nulls, ms": f"{1e3 * many:.0f}",
                    "ratio": f"{many / one:.2f}",
                }
            )
    show(rows)
