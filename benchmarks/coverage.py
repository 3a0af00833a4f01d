"""Coverage of 95% intervals over probe text, for the expectation of each measure's estimator.

Tokens of a sequence depend on each other (correlation 0.3). Two models see a latent of spectrum 1/i through maps of
their own, with little noise (near), some (half) or much (far), or each of them sees another latent (independent). The
expectation is the mean over the draws, so the bias of an estimator is not part of this question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dissimilarity import compare
from dissimilarity.inference.jackknife import half_width
from dissimilarity.measures.base.measure import Measure

NOISE = {"near": 0.01, "half": 0.06, "far": 0.3, "independent": 0.06}
WITHIN = 0.3
"""Correlation of the tokens of a sequence."""


@dataclass(frozen=True)
class Design:
    """A probe set and two models.

    Attributes:
        sequences: number of sequences.
        length: tokens per sequence.
        width: features of the first model; the second has three quarters as many.
        kind: how much noise each model has.
    """

    sequences: int
    length: int
    width: int
    kind: str

    @property
    def ratio(self) -> float:
        """Features per sample."""
        return self.width / (self.sequences * self.length)

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Draw both models' samples (sequences, length, width)."""
        g, maps = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)

        def tokens(width: int) -> Tensor:
            shared = torch.randn(self.sequences, 1, width, generator=g)
            separate = torch.randn(self.sequences, self.length, width, generator=g)
            return WITHIN**0.5 * shared + (1 - WITHIN) ** 0.5 * separate

        def latent() -> Tensor:
            return tokens(widths[1]) * torch.arange(1, widths[1] + 1) ** -0.5

        widths = (self.width, self.width * 3 // 4)
        common = latent()
        latents = (common, latent() if self.kind == "independent" else common)
        first, second = (
            seen @ torch.randn(widths[1], width, generator=maps) / widths[1] ** 0.5 + NOISE[self.kind] * tokens(width)
            for seen, width in zip(latents, widths, strict=True)
        )
        return first, second


def coverage(design: Design, measures: Sequence[Measure], draws: int) -> dict[str, tuple[float, float]]:
    """Return by measure how often the interval holds the expectation, and the stderr in units of the true one."""
    values: dict[str, list[tuple[float, float, int]]] = {measure.label: [] for measure in measures}
    for seed in range(draws):
        x, y = design.draw(seed)
        for row in compare({"site": x}, {"site": y}, measures=measures, null=False).to_pylist():
            values[row["measure"]].append((row["value"], row["stderr"], row["n_units"]))
    results = {}
    for label, numbers in values.items():
        value, stderr, n_units = np.array(numbers).T
        covered = np.abs(value - value.mean()) < half_width(stderr, n_units)
        results[label] = (float(covered.mean()), float((stderr**2).mean() ** 0.5 / value.std(ddof=1)))
    return results
