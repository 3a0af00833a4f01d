"""Models in a plane per measure and layer: without groups, on a hull, or in two groups that generalize differently."""

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist, squareform

from benchmarks.verdicts.verdict import NOMINAL, Verdict
from studies.common.resampling import one_sided_p, resamples_of
from studies.generalization.agreement import Agreement, Evidence, adjusted_over, permuted_statistics, statistic
from studies.generalization.clusters import find_clusters
from studies.generalization.parting import partings

MODELS, MEASURES, LAYERS, SHARED = 16, 3, 4, 0.7
"""Each layer and measure sees this share of what all see of a model."""
GROUPS = np.repeat([0, 1], MODELS // 2)


def _cloud(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((MODELS, 3))


def _circle(rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(0, 2 * np.pi, MODELS)
    return np.stack([np.cos(angles), np.sin(angles), 0.02 * rng.standard_normal(MODELS)], 1)


def _line(rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.uniform(-2, 2, MODELS), *(0.05 * rng.standard_normal((2, MODELS)))], 1)


def _clusters(spread: Callable[[np.random.Generator], np.ndarray]) -> Callable[[np.random.Generator, float], bool]:
    def simulate(rng: np.random.Generator, effect: float) -> bool:
        points = spread(rng)
        points[:, 0] += effect * GROUPS
        return find_clusters(squareform(pdist(points)), seed=int(rng.integers(1 << 30))).count > 1

    return simulate


def _distances(rng: np.random.Generator, effect: float) -> dict[str, np.ndarray]:
    """Return (layers, models, models) per measure; all see the same models, with noise of their own."""
    shared = rng.standard_normal((MODELS, 3))
    shared[:, 0] += effect * GROUPS
    own = rng.standard_normal((MEASURES, LAYERS, MODELS, 3))
    points = SHARED * shared + (1 - SHARED) * own
    return {f"measure {n}": np.stack([squareform(pdist(layer)) for layer in layers]) for n, layers in enumerate(points)}


def _parts(rng: np.random.Generator, effect: float) -> bool:
    results = partings(_distances(rng, effect), GROUPS, seed=int(rng.integers(1 << 30)))
    return any(result.first is not None for result in results.values())


def _correlates(rng: np.random.Generator, effect: float) -> bool:
    """Return whether the distance by any measure at any layer correlates with the gap between accuracies."""
    accuracy = 0.1 * GROUPS + 0.03 * rng.standard_normal(MODELS) if effect else rng.random(MODELS)
    orders = resamples_of(MODELS, 499, int(rng.integers(1 << 30))).permutations
    agreements = []
    for layers in _distances(rng, effect).values():
        for layer in layers:
            evidence = Evidence(layer, GROUPS, GROUPS, accuracy)
            permuted = permuted_statistics("spearman", evidence, orders)
            agreements.append(Agreement(p=float(one_sided_p(statistic("spearman", evidence), permuted))))
    return any(agreement.adjusted < NOMINAL for agreement in adjusted_over(agreements))


VERDICTS = (
    Verdict("generalization", "clusters, a cloud", _clusters(_cloud), 10.0),
    Verdict("generalization", "clusters, a circle", _clusters(_circle), 8.0),
    Verdict("generalization", "clusters, a line", _clusters(_line), 16.0),
    Verdict("generalization", "the groups part", _parts, 3.0),
    Verdict("generalization", "distance and gap", _correlates, 3.0),
)
