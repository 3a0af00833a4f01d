"""Distances between whole models, from the table of `compare_many`: one distance per pair, a plane, a tree."""

import numpy as np
import pyarrow as pa
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from dissimilarity.tables.curves import distinct, select
from dissimilarity.tables.equal_depth import at_equal_depth


def model_distances(table: pa.Table, measure: str) -> tuple[list[str], np.ndarray]:
    """Return the mean dissimilarity of every two models at sites of equal relative depth.

    Args:
        table: the table of `compare_many`.
        measure: label of the measure.

    Returns:
        the models' labels, and (models, models), symmetric, 0 on the diagonal, NaN where a value is missing.

    Examples:
        >>> record = {"measure": "cka", "site_a": "embed", "site_b": "embed", "dissimilarity": 0.25}
        >>> table = pa.Table.from_pylist([{"model_a": "solu", "model_b": "gelu", **record}])
        >>> labels, distances = model_distances(table, "cka")
        >>> labels, distances.tolist()
        (['solu', 'gelu'], [[0.0, 0.25], [0.25, 0.0]])
    """
    records = select(table, measure=measure)
    labels = list(dict.fromkeys([*distinct(records, "model_a"), *distinct(records, "model_b")]))
    by_models: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for record in records.select(["model_a", "model_b", "site_a", "site_b", "dissimilarity"]).to_pylist():
        values = by_models.setdefault((record["model_a"], record["model_b"]), {})
        values[record["site_a"], record["site_b"]] = record["dissimilarity"]
    distances = np.full((len(labels), len(labels)), np.nan)
    np.fill_diagonal(distances, 0)
    for (a, b), values in by_models.items():
        if a != b:
            cell = labels.index(a), labels.index(b)
            numbers = list(values.values())
            mean = np.mean([numbers[place] for place in at_equal_depth(list(values))])
            distances[cell] = distances[cell[::-1]] = mean
    return labels, distances


def principal_coordinates(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of classical scaling (Torgerson 1952), largest first.

    Point i has the coordinates sqrt(values) * vectors[i]. Negative eigenvalues belong to the part of the distances that
    no flat space holds.

    Args:
        distances: symmetric (n, n), 0 on the diagonal.

    Examples:
        >>> values, _ = principal_coordinates(np.array([[0.0, 2.0], [2.0, 0.0]]))
        >>> values.round(6).tolist()
        [2.0, 0.0]
    """
    centering = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-centering @ distances**2 @ centering / 2)
    return values[::-1], vectors[:, ::-1]


def plane(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Return points in a plane whose distances approximate those given, by classical scaling.

    Args:
        distances: symmetric (n, n), 0 on the diagonal.

    Returns:
        points (n, 2), and the share of the squared distances that the plane holds: 1 = all. The part that no flat space
        holds, the negative eigenvalues, counts against it.

    Examples:
        >>> points, share = plane(np.array([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]]))
        >>> round(float(np.linalg.norm(points[0] - points[2])), 6), round(share, 6)
        (4.0, 1.0)
    """
    values, vectors = principal_coordinates(distances)
    lengths = np.clip(values, 0, None)
    points = np.zeros((len(distances), 2))
    dimensions = min(2, len(distances))
    points[:, :dimensions] = (vectors * np.sqrt(lengths))[:, :dimensions]
    total = np.abs(values).sum()
    return points, float(lengths[:2].sum() / total) if total else 1.0


def tree(distances: np.ndarray) -> np.ndarray:
    """Return the tree of models by average linkage in the form of scipy's `linkage`, with similar leaves adjacent.

    Examples:
        >>> tree(np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 4.0], [4.0, 4.0, 0.0]]))[:, 2].tolist()
        [1.0, 4.0]
    """
    return linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
