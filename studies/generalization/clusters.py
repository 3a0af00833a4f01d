"""Clusters of models, found from nothing but the distances between them. There may be none.

The search looks only where clusters would show: k clusters span k - 1 dimensions, so for each k Ward's method cuts the
first k - 1 principal coordinates of the distances (Torgerson 1952). Tightness is the share of the squared distances
from the center that remains within clusters. It means nothing by itself, because any cloud can be cut. As in SigClust
(Liu et al. 2008), it is compared with a single Gaussian cloud of the same spectrum. Here that null is exact rather than
estimated: a Gaussian cloud has no preferred direction among its rows, so given its spectrum its principal coordinates
are a uniformly random frame, in any number of dimensions (a rotation test, Langsrud 2005). The simplex, where all
distances are equal, is the case of a flat spectrum.

A Gaussian cloud is dense at its center. Models that lie evenly along a line, around a circle or on a shell have no
groups either, and yet any cut of them is tighter than that of the cloud. So a cut is held against uniform hulls too:
models spread evenly over an interval, or over the surface of an ellipsoid in two dimensions or more, with the same
spectrum and Gaussian in the dimensions that remain.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from dissimilarity.figures.embedding import principal_coordinates
from studies.common.jackknife import LEVEL
from studies.common.resampling import one_sided_p

MIN_MODELS = 4
"""Fewer models cannot form two clusters of two."""
MAX_CLUSTERS = 6
DRAWS = 500
ROUNDING = 1e-9


@dataclass(frozen=True)
class Clustering:
    """Clusters among models.

    Attributes:
        labels: (models,) cluster of each model, the largest cluster 0; all 0 without clusters; -1 for an outlier beside
            clusters.
        count: number of clusters; 1 = none.
        silhouette: silhouette of the best cut, accepted or not, averaged over models (Rousseeuw 1987); at most 1.
        p: p-value of the best cut against one Gaussian cloud.
        p_hull: the same against uniform hulls, the largest over their dimensions; NaN if p is not below the level. The
            cut is accepted if both are.
        outliers: models in no cluster. Without clusters, models that are farther from every other model than any two of
            the others are from each other.
    """

    labels: np.ndarray
    count: int
    silhouette: float
    p: float
    p_hull: float
    outliers: tuple[int, ...]


def find_clusters(distances: np.ndarray, level: float = LEVEL, seed: int = 0) -> Clustering:
    """Find the clusters among models.

    The number of clusters is 2 to 6 and at most half the number of models; it is the one whose cut is tightest in
    standard deviations of the null. One p value covers all numbers of clusters: how often the tightest cut of a random
    frame is as tight. A cluster has at least two members. If an outlier hides everything else, the other models are
    clustered without it.

    Args:
        distances: (models, models), symmetric, 0 on the diagonal; four models or more.
        level: p below which clusters are accepted.
        seed: seed of the random frames.

    Raises:
        ValueError: Fewer than four models, or distances that are not finite or not symmetric.

    Examples:
        >>> points = np.array([0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 9.2, 9.3])
        >>> find_clusters(np.abs(points[:, None] - points)).labels.tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    distances = checked(distances)
    count = len(distances)
    points, scales = coordinates(distances, min(count // 2, MAX_CLUSTERS) - 1)
    if not len(scales):
        return Clustering(np.zeros(count, int), 1, 0.0, 1.0, 1.0, ())
    points = points * scales
    observed = _cuts(points[None])
    tightness = _tightness(points[None], observed)[0]
    cuts = [np.unique(labels[0], return_inverse=True)[1] for labels in observed]
    cloud = _null(count, scales, 0, False, seed)
    mean, spread = cloud.mean(0), np.maximum(cloud.std(0), 1e-12)
    best = int(((tightness - mean) / spread).argmax())
    tightest = float(((tightness - mean) / spread).max())
    p = float(one_sided_p(tightest, ((cloud - mean) / spread).max(1), ROUNDING))
    p_hull = math.nan
    if p < level:
        kinds = [(hull, is_round) for hull in range(1, len(scales) + 1) for is_round in (False, True)]
        hulls = [_null(count, scales, *kind, seed) for kind in kinds if kind != (1, True)]
        p_hull = max(float(one_sided_p(tightest, ((hull - mean) / spread).max(1), ROUNDING)) for hull in hulls)
    silhouette = _silhouette(points[:, : best + 1], cuts[best])
    if not p_hull < level:
        return Clustering(np.zeros(count, int), 1, silhouette, p, p_hull, _outliers(distances))
    labels = _by_size(cuts[best])
    outliers, others = np.nonzero(labels < 0)[0], np.nonzero(labels >= 0)[0]
    if labels.max() < 1 and len(others) >= MIN_MODELS:  # outliers may hide clusters of the others
        inner = find_clusters(distances[np.ix_(others, others)], level, seed)
        labels[others] = inner.labels
        silhouette, p, p_hull = inner.silhouette, inner.p, inner.p_hull
        outliers = np.sort(np.concatenate([outliers, others[list(inner.outliers)]]))
    if labels.max() < 1:
        labels = np.zeros(count, int)
    return Clustering(labels, int(labels.max()) + 1, silhouette, p, p_hull, tuple(outliers.tolist()))


def checked(distances: np.ndarray) -> np.ndarray:
    """Return the distances in float64.

    Raises:
        ValueError: They cannot be clustered.
    """
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 2 or len(distances) != len(distances.T) or len(distances) < MIN_MODELS:
        raise ValueError(
            f"expected distances between {MIN_MODELS} models or more, because a cluster has at least two members, "
            f"found an array of {distances.shape}; list more models, models=[runs/a,runs/b,runs/c,runs/d,...]"
        )
    if not np.isfinite(distances).all():
        raise ValueError(
            f"expected finite distances, found {int((~np.isfinite(distances)).sum())} of {distances.size} that are "
            "not; leave out the measure or the site without a value"
        )
    if np.abs(distances - distances.T).max() > 1e-6 * max(1e-12, np.abs(distances).max()):
        raise ValueError("expected symmetric distances; pass the mean of both directions")
    return distances


def coordinates(distances: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first principal coordinates of distances.

    Returns:
        (models, dimensions) with orthonormal columns, and their lengths, longest first: at most `limit`, and only those
        of positive length.
    """
    values, vectors = principal_coordinates(distances)
    values, vectors = values[:limit], vectors[:, :limit]
    positive = values > 1e-9 * max(float((distances**2).mean()), 1e-300)
    return vectors[:, positive], np.sqrt(values[positive])


def _null(count: int, scales: np.ndarray, hull: int, is_round: bool, seed: int) -> np.ndarray:
    """Return the tightness of cuts of random models: (draws, cuts).

    Args:
        count: number of models.
        scales: lengths of the principal coordinates.
        hull: number of dimensions in which models lie on a uniform hull; 0 for a Gaussian cloud.
        is_round: whether the hull has equal axes and each draw its own spectrum. Few models crowd on some side of a
            circle, which stretches their spectrum and makes them look grouped. Otherwise each draw has the scales.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((DRAWS, count, len(scales)))
    if hull == 1:
        frames[:, :, 0] = rng.uniform(-1, 1, (DRAWS, count))
    elif hull:
        frames[:, :, :hull] *= math.sqrt(hull) / np.linalg.norm(frames[:, :, :hull], axis=2, keepdims=True)
    if is_round:
        frames[:, :, :hull] *= math.sqrt((scales[:hull] ** 2).mean())
        frames[:, :, hull:] *= scales[hull:]
        axes, lengths, _ = np.linalg.svd(frames - frames.mean(1, keepdims=True), full_matrices=False)
        frames = axes * lengths[:, None]
    else:
        frames = np.linalg.qr(frames - frames.mean(1, keepdims=True))[0] * scales
    return _tightness(frames, _cuts(frames))


def _cuts(frames: np.ndarray) -> list[np.ndarray]:
    """Return the cuts of (draws, models, dimensions) into 2, 3, ... clusters, into k in the first k - 1 dimensions."""
    return [ward(frames[:, :, : k - 1], k) for k in range(2, frames.shape[2] + 2)]


def ward(frames: np.ndarray, count: int) -> np.ndarray:
    """Cut many sets of points at once into clusters by Ward's method; scipy takes them one by one, 20 times slower.

    Args:
        frames: (draws, points, dimensions).
        count: number of clusters.

    Returns:
        (draws, points), the first point of each point's cluster.

    Examples:
        >>> ward(np.array([[[0.0], [5.0], [0.1], [5.1]]]), 2)
        array([[0, 1, 0, 1]])
    """
    draws, points = np.arange(len(frames)), frames.shape[1]
    costs = ((frames[:, :, None] - frames[:, None]) ** 2).sum(3)
    costs[:, np.arange(points), np.arange(points)] = np.inf
    labels, sizes = np.tile(np.arange(points), (len(frames), 1)), np.ones((len(frames), points))
    for _ in range(points - count):
        first, second = np.divmod(costs.reshape(len(frames), -1).argmin(1), points)  # first < second
        a, b = sizes[draws, first][:, None], sizes[draws, second][:, None]
        merged = (a + sizes) * costs[draws, first] + (b + sizes) * costs[draws, second]
        merged = (merged - sizes * costs[draws, first, second][:, None]) / (a + b + sizes)  # Lance & Williams 1967
        merged[draws, first] = np.inf
        costs[draws, first], costs[draws, :, first] = merged, merged
        costs[draws, second], costs[draws, :, second] = np.inf, np.inf
        sizes[draws, first] += sizes[draws, second]
        labels = np.where(labels == second[:, None], first[:, None], labels)
    return labels


def _tightness(frames: np.ndarray, cuts: list[np.ndarray]) -> np.ndarray:
    """Return for each cut -log of the share of the squared distances from the center that is within clusters.

    Returns:
        (draws, cuts).
    """
    tightness = []
    for dimensions, labels in enumerate(cuts, 1):
        points = frames[:, :, :dimensions]
        members = (labels[:, None] == np.arange(labels.shape[1])[:, None]).astype(float)
        sums, sizes = members @ points, np.maximum(members.sum(2), 1)
        share = 1 - ((sums**2).sum(2) / sizes).sum(1) / (points**2).sum((1, 2))
        tightness.append(-np.log(np.maximum(share, 1e-12)))
    return np.stack(tightness, 1)


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette; a model alone in its cluster counts 0."""
    distances, models = squareform(pdist(points)), np.arange(len(labels))
    members = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
    size, sums = members.sum(0)[labels], distances @ members
    inside = sums[models, labels] / np.maximum(size - 1, 1)
    means = sums / members.sum(0)
    means[models, labels] = np.inf
    outside = means.min(1)
    silhouettes = (outside - inside) / np.maximum(np.maximum(outside, inside), 1e-300)
    return float(np.where(size > 1, silhouettes, 0).mean())


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Renumber clusters, the largest first and ties by their first model; -1 for a cluster of one."""
    clusters, first, size = np.unique(labels, return_index=True, return_counts=True)
    order = [index for index in np.lexsort((first, -size)) if size[index] > 1]
    renumbered = np.full(len(labels), -1)
    for number, index in enumerate(order):
        renumbered[labels == clusters[index]] = number
    return renumbered


def _outliers(distances: np.ndarray) -> tuple[int, ...]:
    """Return models that are farther from every other than any two of the others are from each other."""
    outliers = []
    for model in range(len(distances)):
        others = np.delete(np.arange(len(distances)), model)
        if distances[model, others].min() > distances[np.ix_(others, others)].max():
            outliers.append(model)
    return tuple(outliers)
