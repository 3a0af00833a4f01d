"""A verdict of a study with a way to simulate it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NOMINAL, ALLOWED = 0.05, 0.07
"""The level of every verdict, and the largest share of false ones that a simulation may show."""


@dataclass(frozen=True)
class Verdict:
    """One verdict.

    Attributes:
        study: the study that gives it.
        name: what it is about.
        simulate: draws records under an effect, calls the study's functions on them, and returns whether the verdict
            claims an effect. 0 is no effect.
        effect: size of the effect that is planted.
    """

    study: str
    name: str
    simulate: Callable[[np.random.Generator, float], bool]
    effect: float

    def rate(self, draws: int, effect: float = 0.0, seed: int = 0) -> float:
        """Return how often the verdict claims an effect: the rate of false positives for 0, else the power."""
        rngs = np.random.default_rng([seed, int(effect != 0)]).spawn(draws)
        return float(np.mean([self.simulate(rng, effect) for rng in rngs]))
