"""The null in simulations: p values of unrelated models, power for related ones, and the error of calibrated values.

Two models share positions, and text as far as they are related; the tokens of each sequence are correlated. Two sites
of each are compared. For unrelated ones, `p` of a pair and `p_best` of the best of the four pairs should be at or below
0.05 and 0.1 as often as that says, and the mean of the calibrated value 0. `error / spread` is the standard error of
the calibrated value in units of its spread over fresh text.

A second table has the rule that leaves out calibrated values: R^2 of unrelated noise is 1 in any text up to n = d + 1.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import show
from dissimilarity import CKA, LinearRegression, MutualKNN, Procrustes, compare
from dissimilarity.inference.jackknife import half_width

SEQUENCES, LENGTH, WIDTH = 32, 16, 12
MEASURES = [CKA(), Procrustes(), MutualKNN(max_samples=512)]
LEVELS = (0.05, 0.1)


class Models:
    """Draws of two models at two sites each."""

    def __init__(self, related: float) -> None:
        self.related, self.generator = related, torch.Generator().manual_seed(0)
        self.position = self.normal(1, LENGTH, WIDTH)
        self.maps = [self.normal(2, WIDTH, WIDTH) / WIDTH**0.5 for _ in range(4)]

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def draw(self) -> list[dict[str, Tensor]]:
        """Return the activations of both models on fresh text, by site."""
        text = self.normal(SEQUENCES, 1, WIDTH) + self.normal(SEQUENCES, LENGTH, WIDTH)
        return [
            {
                f"{model}{site}": 0.5 * self.normal(SEQUENCES, 1, WIDTH)
                + self.normal(SEQUENCES, LENGTH, WIDTH)
                + self.position @ of_position
                + self.related * text @ of_text
                for site, (of_position, of_text) in enumerate(maps)
            }
            for model, maps in enumerate(zip(*pair, strict=True) for pair in (self.maps[:2], self.maps[2:]))
        ]

    def mask(self) -> Tensor:
        """Return a mask of sequences of unequal length."""
        return torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (SEQUENCES, 1), generator=self.generator)


def rows_of(related: float, masked: bool, nulls: int, draws: int) -> list[dict[str, str]]:
    """Return one row per measure."""
    models = Models(related)
    first: dict[str, list[tuple[float, ...]]] = {measure.label: [] for measure in MEASURES}
    best: dict[str, list[float]] = {measure.label: [] for measure in MEASURES}
    for _ in range(draws):
        x, y = models.draw()
        records = compare(x, y, measures=MEASURES, nulls=nulls, mask=models.mask() if masked else None).to_pylist()
        for label in first:
            rows = [row for row in records if row["measure"] == label]
            first[label].append(tuple(rows[0][key] for key in ("p", "calibrated", "calibrated_stderr", "n_units")))
            best[label].append(min(row["p_best"] for row in rows))
    table = []
    for label, columns in first.items():
        p, calibrated, stderr, n_units = np.array(columns).T
        covered = np.abs(calibrated - calibrated.mean()) <= half_width(stderr, n_units)
        row = {"null": f"{label}, {'unequal' if masked else 'equal'}, related {related:g}, {nulls} nulls"}
        for name, values in (("p", p), ("p_best", np.array(best[label]))):
            for level in LEVELS:
                row[f"{name} <= {level}"] = f"{(values <= level).mean():.1%}" if nulls > 1 else ""
        row["calibrated"] = f"{calibrated.mean():.3f} ± {calibrated.std() / draws**0.5:.3f}"
        row["error / spread"] = f"{np.sqrt((stderr**2).mean()) / calibrated.std():.2f}"
        table.append(row | {"coverage": f"{covered.mean():.1%}"})
    return table


CASES = [(related, masked, nulls) for nulls in (19, 1) for related in (0.0, 0.6) for masked in (False, True)]
"""Unrelated and related models, sequences of equal and of unequal length, several nulls and one."""


def run(draws: int = 200) -> None:
    """Print the tables."""
    show([row for case in CASES for row in rows_of(*case, draws)])
    show(rule(draws))


def rule(draws: int) -> list[dict[str, str]]:
    """Return how often R^2 of unrelated noise has a calibrated value, and how far that is from 0."""
    rows, generator = [], torch.Generator().manual_seed(0)
    for samples_per_dimension in (0.5, 1.0, 1.5, 3.0, 10.0):
        width = int(SEQUENCES * 4 / samples_per_dimension)
        values = []
        for _ in range(draws):
            x, y = torch.randn(2, SEQUENCES, 4, width, generator=generator)
            (row,) = compare({"x": x}, {"y": y}, measures=[LinearRegression()]).to_pylist()
            values.append((row["calibrated"], row["calibrated_stderr"]))
        value, stderr = np.array(values).T
        has_value = np.isfinite(value)
        covered = np.abs(value) <= half_width(stderr, SEQUENCES)
        rows.append(
            {
                "samples per dimension": f"{samples_per_dimension:g}",
                "has a value": f"{has_value.mean():.1%}",
                "calibrated": f"{value[has_value].mean():.3f}" if has_value.any() else "",
                "covers 0": f"{covered[has_value].mean():.1%}" if has_value.any() else "",
            }
        )
    return rows
