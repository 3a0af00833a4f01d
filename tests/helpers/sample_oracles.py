"""Measures of pairs of samples, and of outputs, written out from their definitions, without any code under test.

Rows and their distances in extended precision (80 bits), then float64 numpy and scipy: an offset of 1e4 standard
deviations leaves a correlation of rows 8 of float64's 16 digits.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy, pearsonr, spearmanr

from tests.helpers.oracles import Array, hsic_1

Wide = NDArray[np.longdouble]


def dissimilarities(x: Array, rdm: str) -> Array:
    """Return condensed dissimilarities, pair by pair in float64."""
    rows: Wide = x.astype(np.longdouble)
    if rdm == "correlation":
        rows = rows - rows.mean(1, keepdims=True)
        rows = rows / np.sqrt((rows * rows).sum(1, keepdims=True))
    distances = np.concatenate([((rows[i + 1 :] - row) ** 2).sum(1) for i, row in enumerate(rows)])
    return distances.astype(np.float64)


def tied(values: Array) -> Array:
    """Return the ranks of the numbers in ascending order; numbers that are equal up to rounding share a rank."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order]) > 2e-15 * values[order][1:]
    places = np.empty(len(values))
    places[order] = np.concatenate([[0], np.cumsum(steps)])
    return places


def rsa(x: Array, y: Array, rdm: str = "correlation", compare: str = "spearman") -> float:
    a, b = (dissimilarities(z, rdm) for z in (x, y))
    if compare == "spearman":
        return float(spearmanr(tied(a), tied(b)).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return float(pearsonr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def distances(x: Array) -> Wide:
    """Return the (n, n) Euclidean distances."""
    rows = x.astype(np.longdouble)
    return np.stack([np.sqrt(((rows - row) ** 2).sum(1)) for row in rows])


def distance_correlation(x: Array, y: Array) -> float:
    a, b = (distances(z) for z in (x, y))
    a, b = (d - d.mean(0) - d.mean(1)[:, None] + d.mean() for d in (a, b))
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def distance_correlation_debiased(x: Array, y: Array) -> float:
    """Compute it with U-centering as in Szekely & Rizzo."""
    n = len(x)

    def u_centered(d: Wide) -> Wide:
        rows = d.sum(1, keepdims=True) / (n - 2)
        u = d - rows - rows.T + d.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(u, 0)
        return u

    a, b = (u_centered(distances(z)) for z in (x, y))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def kernel(x: Array, bandwidth: float) -> Array:
    d = distances(x)
    sigma = bandwidth * np.median(d[np.triu_indices(len(x), 1)])
    return np.exp(-(d**2) / (2 * sigma**2)).astype(np.longdouble)  # pyright: ignore[reportReturnType]


def rbf_cka(x: Array, y: Array, bandwidth: float = 1.0) -> float:
    k, l = kernel(x, bandwidth), kernel(y, bandwidth)  # noqa: E741
    return hsic_1(k, l) / float(np.sqrt(hsic_1(k, k) * hsic_1(l, l)))


def rbf_cka_biased(x: Array, y: Array, bandwidth: float = 1.0) -> float:
    centering = np.eye(len(x)) - 1 / len(x)
    k, l = (centering @ kernel(z, bandwidth) @ centering for z in (x, y))  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def neighbors(x: Array, k: int, sequence: NDArray[np.int64] | None = None) -> list[set[int]]:
    """Return the k other rows, or rows of other sequences, of largest cosine with each; the first ones among equals.

    They are sorted by the distance of unit rows, sqrt(2 - 2 cosine), which keeps the digits of cosines near 1.
    """
    rows = x.astype(np.longdouble)
    sequence = np.arange(len(x)) if sequence is None else sequence
    unit = rows / np.sqrt((rows * rows).sum(1, keepdims=True))
    lists = []
    for i, row in enumerate(unit):
        away = tied(((unit - row) ** 2).sum(1).astype(np.float64))
        nearest = [int(j) for j in np.argsort(away, kind="stable") if sequence[j] != sequence[i]]
        lists.append(set(nearest[:k]))
    return lists


def mutual_knn(x: Array, y: Array, k: int = 10, sequence: NDArray[np.int64] | None = None) -> float:
    lists = zip(neighbors(x, k, sequence), neighbors(y, k, sequence), strict=True)
    return float(np.mean([len(a & b) / k for a, b in lists]))


def jaccard_knn(x: Array, y: Array, k: int = 10, sequence: NDArray[np.int64] | None = None) -> float:
    lists = zip(neighbors(x, k, sequence), neighbors(y, k, sequence), strict=True)
    return float(np.mean([len(a & b) / len(a | b) for a, b in lists]))


def minibatches(x: Array, y: Array, batch: int) -> Array:
    """Return HSIC_1 of x and y, of x and of y in each whole minibatch (batches, 3)."""
    terms = []
    for start in range(0, len(x) // batch * batch, batch):
        parts = [z[start : start + batch] - z[start : start + batch].mean(0) for z in (x, y)]
        k, l = (part @ part.T for part in parts)  # noqa: E741
        terms.append([hsic_1(k, l), hsic_1(k, k), hsic_1(l, l)])
    return np.array(terms)


def cka_ratio_of_means(x: Array, y: Array, batch: int) -> float:
    cross, self_x, self_y = minibatches(x, y, batch).mean(0)
    return float(cross / np.sqrt(self_x * self_y))


def cka_mean_of_ratios(x: Array, y: Array, batch: int) -> float:
    return float(np.mean([cross / np.sqrt(self_x * self_y) for cross, self_x, self_y in minibatches(x, y, batch)]))


def disagreement(x: Array, y: Array) -> float:
    return sum(int(np.argmax(a)) != int(np.argmax(b)) for a, b in zip(x, y, strict=True)) / len(x)


def kl(x: Array, y: Array) -> float:
    return float(np.mean(entropy(softmax(x, axis=1), softmax(y, axis=1), axis=1)))


def jsd(x: Array, y: Array) -> float:
    pairs = zip(softmax(x, axis=1), softmax(y, axis=1), strict=True)
    return float(np.mean([jensenshannon(p, q, base=2) ** 2 for p, q in pairs]))
