"""Runs whose neighboring layers arrive together, at steps that rise with depth by the effect."""

import numpy as np

from benchmarks.verdicts.verdict import Verdict
from studies.dynamics.numbers import arrival, order

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256])
RUNS, LAYERS = 5, 6
TOGETHER, ALONE = 0.5, 0.2
"""Standard deviations over log2 of the step: what a layer adds to the one below it, and what is its own."""


def arrivals(rng: np.random.Generator, effect: float) -> list[float]:
    """Return when the layers of a run are halfway, from their dissimilarity to the last checkpoint."""
    middles = 4 + np.cumsum(rng.normal(effect, TOGETHER, LAYERS)) + rng.normal(0, ALONE, LAYERS)
    curves = 1 / (1 + np.exp(2 * (np.log2(1 + STEPS)[None] - middles[:, None])))
    return [arrival(layer, curve - curve[-1], STEPS, np.nan, np.nan).half for layer, curve in enumerate(curves)]


def _order(rng: np.random.Generator, effect: float) -> bool:
    result = order({f"run {run}": arrivals(rng, effect) for run in range(RUNS)})
    return result.verdict in ("bottom-up", "top-down")


VERDICTS = (Verdict("dynamics", "order of the layers", _order, 0.4),)
