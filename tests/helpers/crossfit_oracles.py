"""Cross-fitted values written out in float64 numpy: a map from one half of the samples, its score in the other."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm, svd

from tests.helpers.oracles import Array, centered

Half = tuple[Array, Array]
"""The samples of one half on both sides."""


def turned_cosine(train: Half, test: Half) -> float:
    """Rotate the held-out x by the rotation that is best for the other half, and take the cosine to y."""
    (x, y), (a, b) = (tuple(map(centered, half)) for half in (train, test))
    left, _, right = svd(x.T @ y, full_matrices=False)
    turned = a @ left @ right
    return float((turned * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def variates(train: Half, keep: float | None = None) -> tuple[Array, Array]:
    """Return canonical directions of a half (p, k) and (q, k), of the leading components where a share is given."""
    bases = []
    for z in map(centered, train):
        _, sizes, right = svd(z, full_matrices=False)
        count = len(sizes) if keep is None else int(np.searchsorted((sizes**2).cumsum() / (sizes**2).sum(), keep)) + 1
        bases.append(right[:count].T @ np.linalg.inv(np.asarray(sqrtm(np.diag(sizes[:count] ** 2)))))
    x, y = (centered(z) @ basis for z, basis in zip(train, bases, strict=True))
    left, _, right = svd(x.T @ y, full_matrices=False)
    return bases[0] @ left, bases[1] @ right.T


def held_out(train: Half, test: Half, keep: float | None = None) -> Array:
    """Return the correlation of each pair of variates in the other half."""
    pairs = zip(*(np.asarray(z @ d).T for z, d in zip(test, variates(train, keep), strict=True)), strict=True)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])


def cca(train: Half, test: Half) -> float:
    return float(held_out(train, test).mean())


def cca_mean_square(train: Half, test: Half) -> float:
    rho = held_out(train, test)
    return float((np.sign(rho) * rho**2).mean())


def cca_r2(train: Half, test: Half) -> float:
    rho = held_out(train, test)
    return float((np.sign(rho) * rho**2).sum() / train[0].shape[1])


def svcca(train: Half, test: Half) -> float:
    return float(held_out(train, test, 0.99).mean())


def pwcca(train: Half, test: Half) -> float:
    x = centered(test[0])
    variate = x @ variates(train)[0]
    variate /= np.linalg.norm(variate, axis=0)
    return float(np.average(held_out(train, test), weights=[sum(abs(float(h @ c)) for c in x.T) for h in variate.T]))


def linear_regression(train: Half, test: Half) -> float:
    (x, y), (a, b) = (tuple(map(centered, half)) for half in (train, test))
    residuals = b - a @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (residuals**2).sum() / (b**2).sum())


SCORES: dict[str, tuple[Callable[[Half, Half], float], Callable[[float], float]]] = {
    "procrustes_crossfit": (turned_cosine, lambda c: float(np.arccos(c))),
    "procrustes_squared_crossfit": (turned_cosine, lambda c: 2 - 2 * c),
    "bures_crossfit": (turned_cosine, float),
    "cca_crossfit": (cca, float),
    "cca_mean_square_crossfit": (cca_mean_square, float),
    "cca_r2_crossfit": (cca_r2, float),
    "svcca_crossfit": (svcca, float),
    "pwcca_crossfit": (pwcca, float),
    "linear_regression_crossfit": (linear_regression, float),
}
"""The score of a map in the other half, and what becomes of the mean of both scores, by label."""


def cross_fitted(label: str, x: Array, y: Array, unit: NDArray[np.int64] | None = None) -> float:
    """Return the value of a measure with alternate units, by default alternate samples, as halves."""
    score, finish = SCORES[label]
    first = (np.arange(len(x)) if unit is None else unit) % 2 == 0
    halves = (x[first], y[first]), (x[~first], y[~first])
    return finish((score(*halves) + score(*halves[::-1])) / 2)
