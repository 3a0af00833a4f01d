"""The measures written out from their definitions in float64 numpy, slowly and without any code under test."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes, svd

Array = NDArray[np.float64]


def centred(x: Array) -> Array:
    return x - x.mean(0)


def hsic_1(k: Array, l: Array) -> float:  # noqa: E741
    """Song et al. 2012 on Gram matrices, term by term with the diagonals out."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    ones = np.ones(n)
    trace = np.trace(k @ l)
    total = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (ones @ k @ l @ ones)
    return float((trace + total - cross) / (n * (n - 3)))


def debiased_cka(x: Array, y: Array) -> float:
    k, l = centred(x) @ centred(x).T, centred(y) @ centred(y).T  # noqa: E741
    return hsic_1(k, l) / float(np.sqrt(hsic_1(k, k) * hsic_1(l, l)))


def biased_cka(x: Array, y: Array) -> float:
    k, l = centred(x) @ centred(x).T, centred(y) @ centred(y).T  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def procrustes_cosine(x: Array, y: Array) -> float:
    x, y = centred(x) / np.linalg.norm(centred(x)), centred(y) / np.linalg.norm(centred(y))
    return float(np.sum(svd(x.T @ y, compute_uv=False, lapack_driver="gesvd")))


def procrustes_angle(x: Array, y: Array) -> float:
    """By way of the residual after the best rotation, padded to one width: 2 sin(angle / 2) is its length."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(centred(z) / np.linalg.norm(centred(z)), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    rotation, _ = orthogonal_procrustes(x, y)
    return float(2 * np.arcsin(np.linalg.norm(x @ rotation - y) / 2))


def procrustes_squared(x: Array, y: Array) -> float:
    return 2 - 2 * procrustes_cosine(x, y)


def neighbours(x: Array, k: int) -> list[set[int]]:
    """The k rows of largest cosine with each row, itself left out, of equal ones the first."""
    unit = [row / np.sqrt((row * row).sum()) for row in x]
    found = []
    for i, row in enumerate(unit):
        others = sorted((-round(float(row @ other), 12), j) for j, other in enumerate(unit) if j != i)
        found.append({j for _, j in others[:k]})
    return found


def mutual_knn(x: Array, y: Array, k: int) -> float:
    shares = [len(a & b) / k for a, b in zip(neighbours(x, k), neighbours(y, k), strict=True)]
    return sum(shares) / len(shares)
