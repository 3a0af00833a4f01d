"""Distances of whole models, their plane and their tree, from tables whose answer is known."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.cluster.hierarchy import fcluster
from scipy.spatial.distance import cdist

from dissimilarity.figures.embedding import model_distances, plane, tree
from dissimilarity.figures.figure import write_figure
from dissimilarity.figures.models import models_figure


def table(distances: np.ndarray, layers: int = 2, measure: str = "cka") -> pa.Table:
    """Return rows of every two models: their distance at equal depth, other values elsewhere."""
    rows: list[dict[str, Any]] = []
    for a in range(len(distances)):
        for b in range(a + 1, len(distances)):
            for i in range(layers):
                for j in range(layers):
                    rows.append(
                        {
                            "model_a": f"m{a}",
                            "model_b": f"m{b}",
                            "measure": measure,
                            "site_a": f"blocks.{i}.resid_post",
                            "site_b": f"blocks.{j}.resid_post",
                            "dissimilarity": distances[a, b] + 0.01 * (2 * i - 1) if i == j else 99.0,
                        }
                    )
    return pa.Table.from_pylist(rows)


def in_two_clusters() -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(6, 2)) * 0.05
    points[3:] += (1, 0.5)
    return cdist(points, points)


def test_the_distance_is_the_mean_at_equal_depth() -> None:
    expected = in_two_clusters()
    labels, distances = model_distances(table(expected), "cka")
    assert labels == [f"m{index}" for index in range(6)]
    np.testing.assert_allclose(distances, expected, atol=1e-12)


def test_a_pair_that_was_not_measured_has_no_distance() -> None:
    complete = table(in_two_clusters())
    incomplete = [row for row in complete.to_pylist() if (row["model_a"], row["model_b"]) != ("m0", "m4")]
    _, distances = model_distances(pa.Table.from_pylist(incomplete), "cka")
    assert math.isnan(distances[0, 4]) and math.isnan(distances[4, 0]) and np.isfinite(distances).sum() == 34
    with pytest.raises(ValueError, match="no measure that has all distances"):
        models_figure(pa.Table.from_pylist(incomplete))


def test_the_plane_keeps_distances_that_lie_in_one() -> None:
    expected = in_two_clusters()
    points, share = plane(expected)
    np.testing.assert_allclose(cdist(points, points), expected, atol=1e-9)
    assert share == pytest.approx(1)
    _, of_many = plane(1 - np.eye(9))
    assert of_many == pytest.approx(2 / 8)
    assert plane(np.zeros((2, 2)))[0].shape == (2, 2)


def test_the_tree_separates_distant_models() -> None:
    distances = fcluster(tree(in_two_clusters()), 2, "maxclust")
    assert len(set(distances[:3])) == len(set(distances[3:])) == 1 and distances[0] != distances[3]


def test_the_figure_has_a_tree_and_a_map_of_each_measure(tmp_path: Any) -> None:
    both = pa.concat_tables([table(in_two_clusters()), table(in_two_clusters(), measure="other")])
    figure = models_figure(both, {f"m{index}": "ab"[index // 3] for index in range(6)})
    assert len(figure.axes) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    left = figure.axes[0]
    assert {text.get_text() for text in left.get_yticklabels()} == {f"m{index}" for index in range(6)}
    assert write_figure(figure, tmp_path, "models")[0].stat().st_size > 10_000
