"""Paired errors of differences beside the spread over draws of text, and beside two errors that are not paired.

A reference and two ticks of a model read the same text; the ticks have the same distribution given the text. `true` is
the standard deviation of the difference over draws of text. A jackknife counts twice what depends on two sequences
together, which few sequences make large.
"""

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import show
from dissimilarity import CKA, MutualKNN, Procrustes, compare, difference, select

DRAWS, LENGTH, WIDTH = 60, 8, 16
NOMINAL = 0.05


def draw(sequences: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the activations of two ticks and of a reference on a draw of text."""
    g = torch.Generator().manual_seed(seed)

    def normal(length: int = LENGTH) -> Tensor:
        return torch.randn(sequences, length, WIDTH, generator=g)

    size = (torch.randn(sequences, 1, 1, generator=g) / 3).exp()
    text = size * (normal(1) + normal())
    reference = text + 0.5 * size * normal()
    return {tick: text + 0.2 * normal() for tick in ("a", "b")}, {"reference": reference}


def measured(sequences: int) -> list[dict[str, str]]:
    """Return one row per measure."""
    measures = [CKA(), Procrustes(), MutualKNN()]
    gaps: dict[str, list[tuple[float, float, float, float]]] = {measure.label: [] for measure in measures}
    for seed in range(DRAWS):
        table = compare(*draw(sequences, seed), measures=measures, null=False)
        a, b = (select(table, site_a=tick) for tick in ("a", "b"))
        errors = zip(a["stderr"].to_pylist(), b["stderr"].to_pylist(), strict=True)
        for row, (first, second) in zip(difference(a, b).to_pylist(), errors, strict=True):
            gaps[row["measure"]].append((row["difference"], row["stderr"], math.hypot(first, second), row["p"]))
    rows = []
    for measure, values in gaps.items():
        gap, paired, unpaired, p = np.array(values).T
        rows.append(
            {
                "measure": measure,
                "sequences": str(sequences),
                "true": f"{gap.std(ddof=1):.5f}",
                "paired": f"{paired.mean():.5f}",
                "paired / true": f"{paired.mean() / gap.std(ddof=1):.2f}",
                "unpaired / paired": f"{unpaired.mean() / paired.mean():.1f}",
                f"p < {NOMINAL}": f"{(p < NOMINAL).mean():.0%}",
            }
        )
    return rows


def run() -> None:
    """Print the table."""
    show([row for sequences in (32, 128) for row in measured(sequences)])
