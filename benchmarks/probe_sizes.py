"""Bias and standard error of the default measures by the size of the probe set.

Two synthetic models read the same text: half of what each represents is common, tokens of a sequence are correlated,
and variances fall as 1/i. The truth is the value on a probe set of 2,048 x 64. Mutual kNN has none, because it compares
the neighbors among a bounded number of samples, which it draws again from each probe set.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import show
from dissimilarity import CKA, MutualKNN, Procrustes, compare

SIZES = ((16, 64), (32, 64), (64, 64), (128, 64), (256, 64), (32, 32), (64, 32), (128, 32), (256, 32))
TRUTH, REPEATS, WIDTH = (2048, 64), 6, 128


def models(sequences: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the activations (sequences, positions, d) of two models on a draw of text."""
    g = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, WIDTH + 1).rsqrt()

    def features() -> Tensor:
        of_sequence = torch.randn(sequences, 1, WIDTH, generator=g)
        return (0.3**0.5 * of_sequence + 0.7**0.5 * torch.randn(sequences, length, WIDTH, generator=g)) * spectrum

    common, turn = features(), torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
    return common + features(), (common + features()) @ turn


def compared(sequences: int, length: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return dissimilarity and standard error by measure."""
    x, y = models(sequences, length, seed)
    table = compare({"s": x}, {"s": y}, measures=[CKA(), Procrustes(), MutualKNN()], null=False)
    return {row["measure"]: (row["dissimilarity"], row["stderr"]) for row in table.to_pylist()}


def run() -> None:
    """Print the table."""
    truth = compared(*TRUTH, seed=10**6)
    rows = []
    for sequences, length in SIZES:
        draws = [compared(sequences, length, seed) for seed in range(REPEATS)]
        row = {"probe set": f"{sequences} x {length}"}
        for measure in truth:
            values, errors = np.array([draw[measure] for draw in draws]).T
            if measure in ("cka", "procrustes"):
                row[f"{measure}: bias"] = f"{values.mean() - truth[measure][0]:+.4f}"
            row[f"{measure}: stderr"] = f"{errors.mean():.4f}"
        rows.append(row)
    show(rows)
