"""Clusters of models, found from nothing but the distances between them. There may be none.

The search looks only where clusters would show: k clusters span k - 1 dimensions, so for each k Ward's method cuts the
first k - 1 principal coordinates of the distances (Torgerson 1952). Tightness is the share of the squared distances
from the center that remains within clusters. It means nothing by itself, because any cloud can be cut. As in SigClust
(Liu et al. 2008), it is compared with a single Gaussian cloud of the same spectrum. Here that null is exact rather than
estimated: a Gaussian cloud has no preferred direction among its rows, so given its spectrum its principal coordinates
are a uniformly random frame, in any number of dimensions (a rotation test, Langsrud 2005). The simplex, where all
distances are equal, is the case of a flat spectrum.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from dissimilarity.figures.embedding import principal_coordinates

MIN_MODELS = 4
"""Fewer models cannot form two clusters of two."""
MAX_CLUSTERS = 6
DRAWS = 500
LEVEL = 0.05


@dataclass(frozen=True)
class Clustering:
    """Clusters among models.

    Attributes:
        labels: (models,) cluster of each model, the largest cluster 0; all 0 without clusters; -1 for an outlier beside
            clusters.
        count: number of clusters; 1 = none.
        silhouette: silhouette of the best cut, accepted or not, averaged over models (Rousseeuw 1987); at most 1.
        p: p-value of the best cut against one cloud without clusters; the cut is accepted below the level.
        outliers: models in no cluster. Without clusters, models that are farther from every other model than any two of
            the others are from each other.
    """

    labels: np.ndarray
    count: int
    silhouette: float
    p: float
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

    Example:
        >>> points = np.array([0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 9.2, 9.3])
        >>> find_clusters(np.abs(points[:, None] - points)).labels.tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    distances = checked(distances)
    count = len(distances)
    points, scales = coordinates(distances, min(count // 2, MAX_CLUSTERS) - 1)
    if not len(scales):
        return Clustering(np.zeros(count, int), 1, 0.0, 1.0, ())
    points = points * scales
    cuts = _cuts(points)
    tightness, null = _tightness(points, cuts), _null(count, scales, seed)
    mean, spread = null.mean(0), np.maximum(null.std(0), 1e-12)
    reached = ((null - mean) / spread).max(1) >= ((tightness - mean) / spread).max() - 1e-9
    p = float((1 + reached.sum()) / (1 + DRAWS))
    best = int(((tightness - mean) / spread).argmax())
    silhouette = _silhouette(points[:, : best + 1], cuts[best])
    if p >= level:
        return Clustering(np.zeros(count, int), 1, silhouette, p, _outliers(distances))
    labels = _by_size(cuts[best])
    outliers, others = np.nonzero(labels < 0)[0], np.nonzero(labels >= 0)[0]
    if labels.max() < 1 and len(others) >= MIN_MODELS:  # outliers may hide clusters of the others
        inner = find_clusters(distances[np.ix_(others, others)], level, seed)
        labels[others] = inner.labels
        silhouette, p = inner.silhouette, inner.p
        outliers = np.sort(np.concatenate([outliers, others[list(inner.outliers)]]))
    if labels.max() < 1:
        labels = np.zeros(count, int)
    return Clustering(labels, int(labels.max()) + 1, silhouette, p, tuple(outliers.tolist()))


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


def _null(count: int, scales: np.ndarray, seed: int) -> np.ndarray:
    """Return the tightness of cuts of random frames with these lengths: (draws, cuts)."""
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((DRAWS, count, len(scales)))
    frames = np.linalg.qr(frames - frames.mean(1, keepdims=True))[0] * scales
    return np.stack([_tightness(frame, _cuts(frame)) for frame in frames])


def _cuts(points: np.ndarray) -> list[np.ndarray]:
    """Return the cuts into 2, 3, ... clusters, into k in the first k - 1 dimensions."""
    return [fcluster(linkage(points[:, : k - 1], "ward"), k, "maxclust") - 1 for k in range(2, points.shape[1] + 2)]


def _tightness(points: np.ndarray, cuts: list[np.ndarray]) -> np.ndarray:
    """Return for each cut -log of the share of the squared distances from the center that is within clusters."""
    tightness = []
    for labels in cuts:
        cut_points = points[:, : labels.max()]
        members = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
        centers = (members.T @ cut_points) / members.sum(0)[:, None]
        share = ((cut_points - centers[labels]) ** 2).sum() / (cut_points**2).sum()
        tightness.append(-np.log(max(share, 1e-12)))
    return np.array(tightness)


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
