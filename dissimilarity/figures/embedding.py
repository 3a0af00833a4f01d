"""How far whole models are from each other, from the table of many: one distance a pair, a plane, a tree."""

import numpy as np
import pyarrow as pa
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from dissimilarity.capture.sites import LOGITS, matched_pairs
from dissimilarity.tables.curves import distinct, select


def model_distances(table: pa.Table, measure: str) -> tuple[list[str], np.ndarray]:
    """Mean dissimilarity of every two models at sites of equal relative depth.

    Args:
        table: of `compare_many`.
        measure: its label.

    Returns:
        the models' labels, and (models, models), symmetric, 0 on the diagonal, NaN where a value is missing.
    """
    rows = select(table, measure=measure)
    labels = list(dict.fromkeys([*distinct(rows, "model_a"), *distinct(rows, "model_b")]))
    couples: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in rows.select(["model_a", "model_b", "site_a", "site_b", "dissimilarity"]).to_pylist():
        values = couples.setdefault((row["model_a"], row["model_b"]), {})
        values[row["site_a"], row["site_b"]] = row["dissimilarity"]
    found = np.full((len(labels), len(labels)), np.nan)
    np.fill_diagonal(found, 0)
    for (a, b), values in couples.items():
        if a != b:
            place = labels.index(a), labels.index(b)
            found[place] = found[place[::-1]] = np.mean([values[pair] for pair in at_equal_depth(list(values))])
    return labels, found


def at_equal_depth(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the pairs of sites of two models that are at equal relative depth; of outputs alone, theirs."""
    if pairs == [(LOGITS, LOGITS)]:
        return pairs
    sites_a, sites_b = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    wanted = set(matched_pairs([s for s in sites_a if s != LOGITS], [s for s in sites_b if s != LOGITS]))
    return [pair for pair in pairs if pair in wanted]


def plane(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Points in a plane whose distances come near those given: classical scaling (Torgerson 1952).

    Args:
        distances: symmetric (n, n), 0 on the diagonal.

    Returns:
        points (n, 2), and the share of the squared distances that the plane holds: 1 = all, and what no flat space
        holds, the negative eigenvalues, counts against it.
    """
    values, vectors = principal_coordinates(distances)
    found = np.zeros((len(distances), 2))
    kept = min(2, len(distances))
    found[:, :kept] = (vectors * np.sqrt(np.clip(values, 0, None)))[:, :kept]
    total = np.abs(values).sum()
    return found, float(np.clip(values[:2], 0, None).sum() / total) if total else 1.0


def principal_coordinates(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues and eigenvectors of the doubly centered squared distances, the largest first."""
    centered = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-centered @ distances**2 @ centered / 2)
    return values[::-1], vectors[:, ::-1]


def tree(distances: np.ndarray) -> np.ndarray:
    """The tree of models by average linkage, as scipy's `linkage` gives it, similar leaves beside each other."""
    return linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
