"""Plug-in and cross-fitted values of two sides whose relation is known, and how often intervals hold their mean."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from dissimilarity import CCA, Bures, LinearRegression, Procrustes, compare
from dissimilarity.inference.jackknife import half_width

Array = NDArray[np.float64]

SEQUENCES, LENGTH, WIDTH, UNITS, DRAWS = 32, 32, 64, 16, 100
RELATIONS = {
    "independent": np.zeros(WIDTH),
    "half shared": np.arange(WIDTH) % 2 * 1.0,
    "near": np.full(WIDTH, math.sqrt(0.95)),
}
"""Correlation of each dimension of x with the same one of y."""
SPECTRA = {"flat": np.ones(WIDTH), "1/i": 1 / np.arange(1, WIDTH + 1)}
"""Variance of each dimension."""
MEASURES = {"procrustes": Procrustes, "bures": Bures, "cca": CCA, "linear_regression": LinearRegression}


def truth(measure: str, correlations: Array, variances: Array) -> float:
    """Return the value of infinitely many samples."""
    if measure == "cca":
        return float(correlations.mean())
    if measure == "linear_regression":
        return float(np.average(correlations**2, weights=variances))
    cosine = float(np.average(correlations, weights=variances))
    return cosine if measure == "bures" else math.acos(cosine)


def drawn(rng: np.random.Generator, correlations: Array, variances: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw two sides (sequences, length, width) whose tokens share a tenth of the variance of their sequence."""

    def tokens() -> Array:
        shared, separate = (rng.normal(size=(SEQUENCES, n, WIDTH)) for n in (1, LENGTH))
        return math.sqrt(0.1) * shared + math.sqrt(0.9) * separate

    x, other = tokens(), tokens()
    y = correlations * x + np.sqrt(1 - correlations**2) * other
    return torch.from_numpy(x * np.sqrt(variances)), torch.from_numpy(y * np.sqrt(variances))


def truths() -> list[dict[str, str]]:
    """Return one row per spectrum, relation and measure."""
    rng, rows = np.random.default_rng(0), []
    measures = [kind(crossfit=crossfit) for kind in MEASURES.values() for crossfit in (False, True)]
    for spectrum, variances in SPECTRA.items():
        for relation, correlations in RELATIONS.items():
            numbers: dict[str, list[tuple[float, float]]] = {}
            for _ in range(DRAWS):
                x, y = drawn(rng, correlations, variances)
                for row in compare({"s": x}, {"s": y}, measures=measures, n_units=UNITS, null=False).to_pylist():
                    numbers.setdefault(row["measure"], []).append((row["value"], row["stderr"]))
            for name in MEASURES:
                row = {"spectrum": spectrum, "relation": relation, "measure": name}
                row["truth"] = f"{truth(name, correlations, variances):.3f}"
                for column, label in (("plug-in", name), ("cross-fitted", f"{name}_crossfit")):
                    value, stderr = np.array(numbers[label]).T
                    covered = np.abs(value - value.mean()) < half_width(stderr, UNITS)
                    row |= {column: f"{value.mean():.3f}", f"{column} covered": f"{covered.mean():.0%}"}
                rows.append(row)
    return rows
