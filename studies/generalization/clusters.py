"""Groups among models, from nothing but how far each two are from each other. That there are none is an answer too.

Groups are looked for where they would show: k groups lie in k - 1 dimensions, so for each k the first k - 1 principal
coordinates of the distances (Torgerson 1952) are cut by Ward's method. How tight the groups are, the share of the
squared distances from the middle that is left inside them, says nothing alone, since every cloud can be cut: as in
SigClust (Liu et al. 2008) it is held against one Gaussian cloud of the same spectrum. Here that null is exact rather
than estimated. Seen by its rows, a Gaussian cloud of any covariance has no direction of its own, so given its spectrum
its principal coordinates are a uniformly random frame, in any number of dimensions (a rotation test, Langsrud 2005);
the simplex, in which all are equally far, is the case of a flat spectrum.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from dissimilarity.figures.embedding import principal_coordinates

LEAST = 4
"""Models below which there are no two groups of two."""
MOST = 6
"""Groups at most; there are no more than half as many as models either."""
DRAWS = 500
LEVEL = 0.05


@dataclass(frozen=True)
class Grouping:
    """The groups that were found.

    Attributes:
        labels: (models,) the group of each, the largest group 0; all 0 where there are no groups; -1 for a model that
            stands alone beside the groups.
        count: how many groups; 1 = none were found.
        silhouette: of the best cut, accepted or not, mean over models (Rousseeuw 1987); up to 1.
        p: of the best cut against one cloud without groups; it is accepted below the level asked for.
        apart: models that stand alone: in no group, or where there are no groups, farther from every other model than
            any two of the others are from each other.
    """

    labels: np.ndarray
    count: int
    silhouette: float
    p: float
    apart: tuple[int, ...]


def groups_of(distances: np.ndarray, level: float = LEVEL, seed: int = 0) -> Grouping:
    """The groups among models, one included.

    There are 2 to 6 groups, at most half as many as models: as many as are tightest by the standard deviations of the
    null. Whether there are any has one p value over all numbers of groups: how often the tightest cut of a random frame
    reaches that. A group has two members at least; where a model stands so far alone that nothing else shows, the rest
    are looked at without it.

    Args:
        distances: (models, models), symmetric, 0 on the diagonal; four models at least.
        level: of p below which groups are accepted.
        seed: of the random frames.

    Raises:
        ValueError: fewer than four models, distances that are not finite or not symmetric.
    """
    distances = checked(distances)
    count = len(distances)
    points, scales = coordinates(distances, min(count // 2, MOST) - 1)
    if not len(scales):
        return Grouping(np.zeros(count, int), 1, 0.0, 1.0, ())
    points = points * scales
    cuts = _cuts(points)
    found = _tightness(points, cuts)
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((DRAWS, count, len(scales)))
    frames = np.linalg.qr(frames - frames.mean(1, keepdims=True))[0] * scales
    null = np.stack([_tightness(frame, _cuts(frame)) for frame in frames])
    mean, spread = null.mean(0), np.maximum(null.std(0), 1e-12)
    reached = ((null - mean) / spread).max(1) >= ((found - mean) / spread).max() - 1e-9
    p = float((1 + reached.sum()) / (1 + DRAWS))
    best = int(((found - mean) / spread).argmax())
    silhouette = _silhouette(points[:, : best + 1], cuts[best])
    if p >= level:
        return Grouping(np.zeros(count, int), 1, silhouette, p, _far_from_all(distances))
    labels = _by_size(cuts[best])
    lone, rest = np.nonzero(labels < 0)[0], np.nonzero(labels >= 0)[0]
    if labels.max() < 1 and len(rest) >= LEAST:  # models that stand alone hide what the others are
        inner = groups_of(distances[np.ix_(rest, rest)], level, seed)
        labels[rest] = inner.labels
        silhouette, p = inner.silhouette, inner.p
        lone = np.sort(np.concatenate([lone, rest[list(inner.apart)]]))
    if labels.max() < 1:
        labels = np.zeros(count, int)
    return Grouping(labels, int(labels.max()) + 1, silhouette, p, tuple(lone.tolist()))


def checked(distances: np.ndarray) -> np.ndarray:
    """The distances in float64; raises ValueError for what cannot be grouped."""
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or len(distances) != len(distances.T) or len(distances) < LEAST:
        raise ValueError(
            f"expected distances between {LEAST} models or more, since a group has two members at least, found an "
            f"array of {distances.shape}; name more models, models=[runs/a,runs/b,runs/c,runs/d,...]"
        )
    if not np.isfinite(distances).all():
        raise ValueError(
            f"expected finite distances, found {int((~np.isfinite(distances)).sum())} of {distances.size} that are "
            "not; leave out the measure or the site that has no value"
        )
    if np.abs(distances - distances.T).max() > 1e-6 * max(1e-12, np.abs(distances).max()):
        raise ValueError("expected symmetric distances; pass the mean of both directions")
    return distances


def coordinates(distances: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal coordinates of some distances.

    Returns:
        (models, dimensions) with orthonormal columns, and their lengths, the longest first; no more than `most`, and
        none that no flat space holds.
    """
    values, vectors = principal_coordinates(distances)
    values, vectors = values[:most], vectors[:, :most]
    kept = values > 1e-9 * max(float((distances**2).mean()), 1e-300)
    return vectors[:, kept], np.sqrt(values[kept])


def _cuts(points: np.ndarray) -> list[np.ndarray]:
    """The cut into 2, 3, ... groups, k of them in the first k - 1 dimensions."""
    return [fcluster(linkage(points[:, : k - 1], "ward"), k, "maxclust") - 1 for k in range(2, points.shape[1] + 2)]


def _tightness(points: np.ndarray, cuts: list[np.ndarray]) -> np.ndarray:
    """-log of the share of the squared distances from the middle that is inside groups, for each cut."""
    found = []
    for labels in cuts:
        here = points[:, : labels.max()]
        member = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
        centers = (member.T @ here) / member.sum(0)[:, None]
        found.append(-np.log(max(((here - centers[labels]) ** 2).sum() / (here**2).sum(), 1e-12)))
    return np.array(found)


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette; a model alone in its group counts 0."""
    distances, rows = squareform(pdist(points)), np.arange(len(labels))
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
    own, sums = member.sum(0)[labels], distances @ member
    inside = sums[rows, labels] / np.maximum(own - 1, 1)
    means = sums / member.sum(0)
    means[rows, labels] = np.inf
    outside = means.min(1)
    each = (outside - inside) / np.maximum(np.maximum(outside, inside), 1e-300)
    return float(np.where(own > 1, each, 0).mean())


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Groups renumbered, the largest first and of equals that of the first model; -1 for a group of one."""
    groups, first, size = np.unique(labels, return_index=True, return_counts=True)
    order = [index for index in np.lexsort((first, -size)) if size[index] > 1]
    found = np.full(len(labels), -1)
    for number, index in enumerate(order):
        found[labels == groups[index]] = number
    return found


def _far_from_all(distances: np.ndarray) -> tuple[int, ...]:
    """A model farther from every other than any two of the others are from each other."""
    found = []
    for model in range(len(distances)):
        rest = np.delete(np.arange(len(distances)), model)
        if distances[model, rest].min() > distances[np.ix_(rest, rest)].max():
            found.append(model)
    return tuple(found)
