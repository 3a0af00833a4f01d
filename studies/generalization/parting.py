"""The layer at which two groups of models part: from there on, the distance across groups exceeds chance.

The contrast of a layer is the mean distance of two models of different groups minus that of two models of one group.
Its p value is how often permuted models reach it, adjusted over all measures and layers (Benjamini and Hochberg 1995).
The groups part at the first layer from which it stays below 5%, up to the last layer; draws of models with replacement
say how certain that layer is. Groups of fewer than five models have contrasts and no verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from dissimilarity.inference.coverage import FEWEST_MODELS
from studies.common.jackknife import LEVEL
from studies.common.resampling import MIDDLE, one_sided_p, resamples_of

DRAWS = 999


@dataclass(frozen=True)
class Parting:
    """Where two groups part.

    Attributes:
        contrast: (layers,) mean distance across minus within.
        low, high: (layers,) its 95% bootstrap interval over models.
        p: (layers,) one-sided, how often permuted models reach the contrast.
        adjusted: (layers,) the same over all measures and layers.
        models: number of models in the smallest group.
        first: the layer from which the contrast is beyond chance; None if it is not at the last layer.
        earliest, latest: 95% bootstrap interval of `first`; None = never.
        shares: (layers + 1,) share of the draws in which the groups part at each layer; the last entry means never.
    """

    contrast: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    models: int
    first: int | None
    earliest: int | None
    latest: int | None
    shares: np.ndarray

    @property
    def has_verdict(self) -> bool:
        """Return whether the groups have enough models."""
        return self.models >= FEWEST_MODELS


def partings(distances: Mapping[str, np.ndarray], truth: np.ndarray, seed: int = 0) -> dict[str, Parting]:
    """Return where the groups part by each measure; empty without two groups of two models or more.

    Args:
        distances: measure -> (layers, models, models), symmetric.
        truth: (models,) reference group, -1 for none.
        seed: seed of permutations and draws.
    """
    grouped = truth >= 0
    groups = truth[grouped]
    sizes = np.unique(groups, return_counts=True)[1]
    if len(sizes) < 2 or sizes.min() < 2 or not distances:
        return {}
    stacks = {measure: layers[:, grouped][:, :, grouped] for measure, layers in distances.items()}
    models, resamples = np.arange(len(groups)), resamples_of(len(groups), DRAWS, seed)
    contrasts = {measure: _contrast(layers, groups, models) for measure, layers in stacks.items()}
    permuted = {
        measure: np.stack([_contrast(layers, groups[order], models) for order in resamples.permutations])
        for measure, layers in stacks.items()
    }
    p = np.stack([one_sided_p(contrasts[measure], permuted[measure]) for measure in stacks])
    adjusted = false_discovery_control(p.ravel()).reshape(p.shape)
    # The p value below which a contrast is beyond chance, as a contrast: what a draw of models is held against.
    cutoff = LEVEL * max(1, int((adjusted < LEVEL).sum())) / p.size
    return {
        measure: _parting(
            layers,
            groups,
            (contrasts[measure], np.quantile(permuted[measure], 1 - cutoff, axis=0), p[place], adjusted[place]),
            resamples.draws,
        )
        for place, (measure, layers) in enumerate(stacks.items())
    }


def _parting(
    distances: np.ndarray,
    groups: np.ndarray,
    tested: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    draws: np.ndarray,
) -> Parting:
    """Return where the groups part by one measure.

    Args:
        distances: (layers, models, models).
        groups: (models,) reference group.
        tested: contrast, its cutoff, p and adjusted p of each layer.
        draws: (draws, models) with replacement.
    """
    contrast, cutoff, p, adjusted = tested
    layers, smallest = len(distances), int(np.unique(groups, return_counts=True)[1].min())
    drawn = np.stack([_contrast(distances, groups, draw) for draw in draws])
    drawn = drawn[np.isfinite(drawn).all(1)]
    firsts = np.array([_first(draw > cutoff) for draw in drawn])
    shares = np.bincount(firsts, minlength=layers + 1) / len(firsts)
    if smallest < FEWEST_MODELS:
        missing = np.full(layers, np.nan)
        return Parting(contrast, missing, missing, missing, missing, smallest, None, None, None, shares)
    earliest, latest = np.quantile(firsts, (0.025, 0.975), method="closest_observation").astype(int)
    low, high = np.percentile(drawn, MIDDLE, axis=0)
    ends = (_first(adjusted < LEVEL), earliest, latest)
    first, earliest, latest = (None if layer == layers else int(layer) for layer in ends)
    return Parting(contrast, low, high, p, adjusted, smallest, first, earliest, latest, shares)


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
