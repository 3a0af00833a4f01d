"""Clusters from distances: planted ones are found, and a cloud without clusters has none."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score, silhouette_score

from studies.generalization import clusters
from studies.generalization.clusters import coordinates, find_clusters

Draw = Callable[[np.random.Generator], np.ndarray]


def distances(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points))


def cloud(rng: np.random.Generator, dimensions: int, models: int = 20) -> np.ndarray:
    return distances(rng.standard_normal((models, dimensions)))


def simplex(rng: np.random.Generator, models: int = 20, noise: float = 0.03) -> np.ndarray:
    off = rng.standard_normal((models, models)) * noise
    return np.where(np.eye(models) > 0, 0, 1 + (off + off.T) / 2)


def planted(rng: np.random.Generator, dimensions: int, counts: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return groups whose centers lie on separate axes, each `sigma` standard deviations from the center."""
    centers = np.eye(len(counts)) - 1 / len(counts)
    centers *= sigma / np.linalg.norm(centers, axis=1).max()
    points = rng.standard_normal((sum(counts), dimensions))
    points[:, : len(counts)] += np.repeat(centers, counts, 0)
    return distances(points)


def truth(counts: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("dimensions", [2, 5, 19])
def test_two_clusters_of_four_sigma_are_found_completely(dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 199)
    for seed in range(3):
        found = find_clusters(planted(np.random.default_rng(seed), dimensions, (10, 10), 4), seed=seed)
        assert found.count == 2 and found.p < 0.01 and found.outliers == ()
        assert adjusted_rand_score(truth((10, 10)), found.labels) == 1


def test_two_clusters_of_four_and_a_half_sigma_are_mostly_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 199)
    results = [find_clusters(planted(np.random.default_rng(seed), 5, (10, 10), 4.5), seed=seed) for seed in range(10)]
    scores = [adjusted_rand_score(truth((10, 10)), result.labels) for result in results if result.count > 1]
    assert len(scores) >= 7 and np.median(scores) == 1
    assert sum(result.p < 0.05 for result in results) == 10, "a cloud alone never explains them"


def test_many_cuts_at_once_are_those_of_scipy() -> None:
    frames = np.random.default_rng(0).standard_normal((20, 15, 3))
    for count in (2, 5):
        expected = [fcluster(linkage(frame, "ward"), count, "maxclust") for frame in frames]
        actual = clusters.ward(frames, count)
        assert [adjusted_rand_score(a, b) for a, b in zip(expected, actual, strict=True)] == [1.0] * 20


@pytest.mark.parametrize("counts", [(7, 7, 6), (5, 5, 5, 5), (15, 5)])
def test_the_data_decide_the_number_of_clusters(counts: tuple[int, ...]) -> None:
    clusters = find_clusters(planted(np.random.default_rng(1), 10, counts, 6), seed=0)
    assert clusters.count == len(counts)
    assert adjusted_rand_score(truth(counts), clusters.labels) == 1
    sizes = np.bincount(clusters.labels)
    assert (np.diff(sizes) <= 0).all()


def test_clusters_as_far_apart_as_the_papers_are_found() -> None:
    """Ten and ten, 1.36 within and 1.47 across, as in Figure 8 of arXiv 2310.14993."""
    rng = np.random.default_rng(0)
    labels = truth((10, 10))
    far = 1.36 * simplex(rng, noise=0.01) + 0.11 * (labels[:, None] != labels)
    assert adjusted_rand_score(labels, find_clusters(far).labels) == 1


CLOUDS: dict[str, Draw] = {
    "1": lambda rng: cloud(rng, 1),
    "2": lambda rng: cloud(rng, 2),
    "10": lambda rng: cloud(rng, 10),
    "50": lambda rng: cloud(rng, 50),
    "stretched": lambda rng: distances(rng.standard_normal((12, 8)) * 2.0 ** -np.arange(8)),
    "simplex": simplex,
    "six models": lambda rng: cloud(rng, 10, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLOUDS)
def test_a_cloud_without_clusters_has_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 99)
    results = [find_clusters(CLOUDS[kind](np.random.default_rng(seed)), seed=seed) for seed in range(60)]
    assert np.mean([result.count == 1 for result in results]) >= 0.9
    # p is uniform: neither clusters out of nothing nor a test that never finds any.
    assert 0.37 < np.mean([result.p for result in results]) < 0.63


def circle(rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(0, 2 * np.pi, 14)
    return distances(np.stack([np.cos(angles), np.sin(angles), 0.02 * rng.standard_normal(14)], 1))


HULLS: dict[str, Draw] = {
    "circle": circle,
    "line": lambda rng: distances(np.stack([rng.uniform(size=14), 0.02 * rng.standard_normal(14)], 1)),
}


@pytest.mark.parametrize("kind", HULLS)
def test_models_spread_evenly_over_a_hull_are_no_groups(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 199)
    results = [find_clusters(HULLS[kind](np.random.default_rng(seed)), seed=seed) for seed in range(60)]
    assert sum(result.p < 0.05 for result in results) >= 9, "a Gaussian cloud alone does not explain them"
    assert sum(result.count > 1 for result in results) <= 0.07 * 60
    assert all(np.isnan(result.p_hull) == (result.p >= 0.05) for result in results)


def test_an_outlier_is_not_a_cluster() -> None:
    rng = np.random.default_rng(3)
    points = rng.standard_normal((12, 4))
    points[5, 0] += 30
    clusters = find_clusters(distances(points))
    assert clusters.count == 1 and clusters.outliers == (5,) and not clusters.labels.any()


def test_an_outlier_does_not_hide_clusters() -> None:
    rng = np.random.default_rng(3)
    points = rng.standard_normal((21, 4))
    points[:10, 1] += 9
    points[20, 0] += 60
    clusters = find_clusters(distances(points))
    assert clusters.count == 2 and clusters.outliers == (20,) and clusters.labels[20] == -1
    assert adjusted_rand_score(truth((10, 10)), clusters.labels[:20]) == 1


def test_identical_models_are_one_cluster() -> None:
    clusters = find_clusters(np.zeros((6, 6)))
    assert clusters.count == 1 and clusters.p == 1


def test_the_order_and_the_scale_of_the_models_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    far = planted(rng, 6, (8, 6), 5)
    order = rng.permutation(14)
    one, other = find_clusters(far), find_clusters(1e-3 * far[np.ix_(order, order)])
    assert adjusted_rand_score(one.labels[order], other.labels) == 1
    assert one.silhouette == pytest.approx(other.silhouette)


def test_the_silhouette_is_scikit_learns() -> None:
    far = planted(np.random.default_rng(0), 6, (8, 6), 5)
    clusters = find_clusters(far)
    points, scales = coordinates(far, 1)
    assert clusters.silhouette == pytest.approx(silhouette_score(points * scales, clusters.labels))


def test_coordinates_give_the_distances_back() -> None:
    far = cloud(np.random.default_rng(0), 3, 9)
    points, scales = coordinates(far, 8)
    assert points.shape == (9, 3)
    assert distances(points * scales) == pytest.approx(far)
    assert points.T @ points == pytest.approx(np.eye(3))


@pytest.mark.parametrize(
    ("far", "message"),
    [
        (np.zeros((3, 3)), r"distances between 4 models or more.*found an array of \(3, 3\); list more models"),
        (np.full((4, 4), np.nan), "expected finite distances, found 16 of 16"),
        (np.triu(np.ones((4, 4)), 1), "expected symmetric distances"),
    ],
)
def test_distances_that_cannot_be_clustered_are_rejected(far: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_clusters(far)
