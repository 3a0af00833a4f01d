"""At which layer two groups of models part: from where on the distance across leaves the band of that within.

At each layer the contrast is the mean distance of two models of different groups less that of two of one group. It has
left the band where it is above 95 % of the contrasts of permuted models. The groups part at the first layer from which
on it stays out of it, up to the last; how certain that is, draws of models with replacement say.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 999


@dataclass(frozen=True)
class Parting:
    """Where two groups part.

    Attributes:
        contrast: (layers,) mean distance across less within.
        low, high: (layers,) 95 % bootstrap interval of it, over models.
        band: (layers,) 95 % of contrasts of permuted models are below.
        p: (layers,) one-sided, how often those of permuted models reach it.
        first: the layer from which on it is out of the band; None where it is not at the last.
        earliest, latest: 95 % bootstrap interval of `first`; None = never.
        shares: (layers + 1,) of the draws in which the groups part at each layer; the last: never.
    """

    contrast: np.ndarray
    low: np.ndarray
    high: np.ndarray
    band: np.ndarray
    p: np.ndarray
    first: int | None
    earliest: int | None
    latest: int | None
    shares: np.ndarray


def parting(distances: np.ndarray, truth: np.ndarray, seed: int = 0) -> Parting | None:
    """Where the groups part; None where there are no two, or not two models in each.

    Args:
        distances: (layers, models, models), symmetric.
        truth: (models,) group, -1 for a model of none.
        seed: of permutations and draws.
    """
    inside = truth >= 0
    far, groups = distances[:, inside][:, :, inside], truth[inside]
    _, sizes = np.unique(groups, return_counts=True)
    if len(sizes) < 2 or sizes.min() < 2:
        return None
    rng = np.random.default_rng(seed)
    layers, count = len(far), len(groups)
    every = np.arange(count)
    value = _contrast(far, groups, every)
    permuted = np.stack([_contrast(far, rng.permutation(groups), every) for _ in range(DRAWS)])
    band = np.quantile(permuted, 0.95, axis=0)
    drawn = np.stack([_contrast(far, groups, rng.integers(count, size=count)) for _ in range(DRAWS)])
    drawn = drawn[np.isfinite(drawn).all(1)]
    firsts = np.array([_first(each > band) for each in drawn])
    earliest, latest = np.quantile(firsts, (0.025, 0.975), method="closest_observation").astype(int)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    p = (1 + (permuted >= value - 1e-12).sum(0)) / (1 + DRAWS)
    shares = np.bincount(firsts, minlength=layers + 1) / len(firsts)
    first = _first(value > band)
    first, earliest, latest = (None if layer == layers else int(layer) for layer in (first, earliest, latest))
    return Parting(value, low, high, band, p, first, earliest, latest, shares)


def _contrast(far: np.ndarray, groups: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean distance across less within, by layer, over the pairs of different models out of those chosen."""
    first, second = np.triu_indices(len(chosen), 1)
    kept = chosen[first] != chosen[second]
    first, second = first[kept], second[kept]
    across = groups[chosen[first]] != groups[chosen[second]]
    if across.all() or not across.any():
        return np.full(len(far), np.nan)
    values = far[:, chosen[first], chosen[second]]
    return values[:, across].mean(1) - values[:, ~across].mean(1)


def _first(out: np.ndarray) -> int:
    """The first layer from which on all are true; the number of layers where the last is not."""
    return len(out) - int(np.cumprod(out[::-1]).sum())
