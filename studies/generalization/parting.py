"""The layer at which two groups of models part: from there on, the distance across groups exceeds chance.

The contrast of a layer is the mean distance of two models of different groups minus that of two models of one group. It
is outside the band if it is above 95 % of the contrasts of permuted models. The groups part at the first layer from
which the contrast stays outside, up to the last layer; draws of models with replacement say how certain that layer is.
"""

from dataclasses import dataclass

import numpy as np

from studies.common.resampling import MIDDLE, one_sided_p, resamples_of

DRAWS = 999


@dataclass(frozen=True)
class Parting:
    """Where two groups part.

    Attributes:
        contrast: (layers,) mean distance across minus within.
        low, high: (layers,) its 95 % bootstrap interval over models.
        band: (layers,) 95th percentile of the contrasts of permuted models.
        p: (layers,) one-sided, how often permuted models reach the contrast.
        first: the layer from which the contrast is outside the band; None if it is inside at the last layer.
        earliest, latest: 95 % bootstrap interval of `first`; None = never.
        shares: (layers + 1,) share of the draws in which the groups part at each layer; the last entry means never.
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
    """Return where the groups part; None without two groups of two models or more.

    Args:
        distances: (layers, models, models), symmetric.
        truth: (models,) reference group, -1 for none.
        seed: seed of permutations and draws.
    """
    grouped = truth >= 0
    distances, groups = distances[:, grouped][:, :, grouped], truth[grouped]
    _, sizes = np.unique(groups, return_counts=True)
    if len(sizes) < 2 or sizes.min() < 2:
        return None
    layers, count = len(distances), len(groups)
    models, resamples = np.arange(count), resamples_of(count, DRAWS, seed)
    contrast = _contrast(distances, groups, models)
    permuted = np.stack([_contrast(distances, groups[order], models) for order in resamples.permutations])
    band = np.quantile(permuted, 0.95, axis=0)
    drawn = np.stack([_contrast(distances, groups, draw) for draw in resamples.draws])
    drawn = drawn[np.isfinite(drawn).all(1)]
    firsts = np.array([_first(draw > band) for draw in drawn])
    earliest, latest = np.quantile(firsts, (0.025, 0.975), method="closest_observation").astype(int)
    low, high = np.percentile(drawn, MIDDLE, axis=0)
    shares = np.bincount(firsts, minlength=layers + 1) / len(firsts)
    ends = (_first(contrast > band), earliest, latest)
    first, earliest, latest = (None if layer == layers else int(layer) for layer in ends)
    return Parting(contrast, low, high, band, one_sided_p(contrast, permuted), first, earliest, latest, shares)


def _contrast(distances: np.ndarray, groups: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the mean distance across minus within, by layer, over the pairs of different models among those drawn."""
    first, second = np.triu_indices(len(drawn), 1)
    different = drawn[first] != drawn[second]
    first, second = drawn[first[different]], drawn[second[different]]
    across = groups[first] != groups[second]
    if across.all() or not across.any():
        return np.full(len(distances), np.nan)
    values = distances[:, first, second]
    return values[:, across].mean(1) - values[:, ~across].mean(1)


def _first(outside: np.ndarray) -> int:
    """Return the first layer from which all are true; the number of layers if the last is not."""
    return len(outside) - int(np.cumprod(outside[::-1]).sum())
