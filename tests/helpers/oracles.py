"""The measures written out from their definitions in float64 numpy, slowly and without any code under test."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orth, orthogonal_procrustes, svd
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]


def centered(x: Array) -> Array:
    return x - x.mean(0)


def hsic_1(k: Array, l: Array) -> float:  # noqa: E741
    """Compute HSIC_1 of Song et al. 2012 on Gram matrices, term by term without the diagonals."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    ones = np.ones(n)
    trace = np.trace(k @ l)
    total = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (ones @ k @ l @ ones)
    return float((trace + total - cross) / (n * (n - 3)))


def debiased_cka(x: Array, y: Array) -> float:
    k, l = centered(x) @ centered(x).T, centered(y) @ centered(y).T  # noqa: E741
    return hsic_1(k, l) / float(np.sqrt(hsic_1(k, k) * hsic_1(l, l)))


def biased_cka(x: Array, y: Array) -> float:
    k, l = centered(x) @ centered(x).T, centered(y) @ centered(y).T  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def procrustes_cosine(x: Array, y: Array) -> float:
    x, y = centered(x) / np.linalg.norm(centered(x)), centered(y) / np.linalg.norm(centered(y))
    return float(np.sum(svd(x.T @ y, compute_uv=False, lapack_driver="gesvd")))


def procrustes_angle(x: Array, y: Array) -> float:
    """Compute it from the residual after the best rotation, padded to one width: 2 sin(angle / 2) is its length."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(centered(z) / np.linalg.norm(centered(z)), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    rotation, _ = orthogonal_procrustes(x, y)
    return float(2 * np.arcsin(np.linalg.norm(x @ rotation - y) / 2))


def procrustes_squared(x: Array, y: Array) -> float:
    return 2 - 2 * procrustes_cosine(x, y)


def basis(x: Array) -> Array:
    """Return orthonormal columns that span the centered columns, which float32 rows determine to 1e-6."""
    x = centered(x)
    norms = np.linalg.norm(x, axis=0)
    varies = norms > 1e-12 * norms.max()
    return orth(x[:, varies] / norms[varies], rcond=1e-6)


def correlations(x: Array, y: Array) -> Array:
    """Return canonical correlations: cosines between the spans of the centered columns, up to the smaller rank."""
    return np.asarray(svd(basis(x).T @ basis(y), compute_uv=False, lapack_driver="gesvd"))


def cca_mean(x: Array, y: Array) -> float:
    return float(correlations(x, y).mean())


def cca_mean_square(x: Array, y: Array) -> float:
    return float((correlations(x, y) ** 2).mean())


def cca_r2(x: Array, y: Array) -> float:
    """Return the share of an orthonormal basis of x that a projection on y keeps."""
    x, y = basis(x), basis(y)
    return float((np.linalg.norm(y @ (y.T @ x)) / np.linalg.norm(x)) ** 2)


def svcca(x: Array, y: Array, share: float = 0.99) -> float:
    scores = []
    for z in (x, y):
        left, sizes, _ = svd(centered(z), full_matrices=False, lapack_driver="gesvd")
        components = 1
        while (sizes[:components] ** 2).sum() < share * (sizes**2).sum():
            components += 1
        scores.append(left[:, :components] * sizes[:components])
    return cca_mean(*scores)


def pwcca(x: Array, y: Array) -> float:
    left, rho, _ = svd(basis(x).T @ basis(y), full_matrices=False, lapack_driver="gesvd")
    weights = [sum(abs(float(h @ neuron)) for neuron in centered(x).T) for h in (basis(x) @ left).T]
    return float(np.average(rho, weights=weights))


def linear_regression(x: Array, y: Array) -> float:
    """Return 1 - residuals / total of least squares with a column of ones."""
    scale = np.linalg.norm(centered(x), axis=0)
    design = np.column_stack([centered(x) / np.where(scale > 1e-12 * scale.max(), scale, np.inf), np.ones(len(x))])
    coefficients = np.linalg.lstsq(design, y - y[0], rcond=1e-6)[0]
    residuals = y - y[0] - design @ coefficients
    return float(1 - (residuals**2).sum() / (centered(y) ** 2).sum())


def gulp(x: Array, y: Array, ridge: float = 1e-2) -> float:
    """Return the squared distance of the two smoothers (hat matrices) of kernel ridge regression."""
    smoothers = []
    for z in (x, y):
        kernel = centered(z) @ centered(z).T / np.linalg.norm(centered(z)) ** 2
        smoothers.append(kernel @ np.linalg.inv(kernel + ridge * np.eye(len(z))))
    return float(np.linalg.norm(smoothers[0] - smoothers[1]) ** 2)


def bures(x: Array, y: Array) -> float:
    """Compute it from the square roots of the two kernels, (n, n)."""
    roots = []
    for z in (x, y):
        left, sizes, _ = svd(centered(z), full_matrices=False, lapack_driver="gesvd")
        roots.append(left * sizes @ left.T / np.linalg.norm(sizes))
    return float(np.sum(svd(roots[0] @ roots[1], compute_uv=False)))


def permutation_procrustes_angle(x: Array, y: Array) -> float:
    """Compute it from the smallest squared distance between matched neurons, padded to one width."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(centered(z) / np.linalg.norm(centered(z)), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    between = ((x[:, :, None] - y[:, None, :]) ** 2).sum(0)
    return float(2 * np.arcsin(np.sqrt(between[linear_sum_assignment(between)].sum()) / 2))


def permutation_procrustes_squared(x: Array, y: Array) -> float:
    return float((2 * np.sin(permutation_procrustes_angle(x, y) / 2)) ** 2)


def angular_cka(x: Array, y: Array) -> float:
    return float(np.arccos(debiased_cka(x, y)))


def angular_cka_biased(x: Array, y: Array) -> float:
    return float(np.arccos(biased_cka(x, y)))


def neighbors(x: Array, k: int) -> list[set[int]]:
    """Return the k other rows of largest cosine with each row; the first ones among equals."""
    unit = [row / np.sqrt((row * row).sum()) for row in x]
    nearest = []
    for i, row in enumerate(unit):
        others = sorted((-round(float(row @ other), 12), j) for j, other in enumerate(unit) if j != i)
        nearest.append({j for _, j in others[:k]})
    return nearest


def mutual_knn(x: Array, y: Array, k: int) -> float:
    shares = [len(a & b) / k for a, b in zip(neighbors(x, k), neighbors(y, k), strict=True)]
    return sum(shares) / len(shares)


def hsic_of_quadruples(k: Array, l: Array, sequence: NDArray[np.int64]) -> float:  # noqa: E741
    """Compute HSIC as the mean over all quadruples of samples i, j, q, r of four different sequences, one by one."""
    differ = sequence[:, None] != sequence
    i, j, q, r = np.ix_(*[np.arange(len(k))] * 4)
    distinct = differ[i, j] & differ[i, q] & differ[i, r] & differ[j, q] & differ[j, r] & differ[q, r]
    terms = k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q]
    return float(terms[np.broadcast_to(distinct, terms.shape)].mean())


def hsic_of_sequences(k: Array, l: Array, sequence: NDArray[np.int64]) -> float:  # noqa: E741
    """Compute the same from all quadruples of different sequences, with sums over the samples of each."""
    member = (sequence[:, None] == np.unique(sequence)).astype(float)
    count, n = member.shape[1], member.sum(0)
    s, t, u, v = np.ix_(*[np.arange(count)] * 4)
    distinct = (s != t) & (s != u) & (s != v) & (t != u) & (t != v) & (u != v)
    both, sums_k, sums_l = (member.T @ matrix @ member for matrix in (k * l, k, l))
    chains = np.einsum("it,is,iu->stu", member, k @ member, l @ member)
    terms = both[s, t] * n[u] * n[v] + sums_k[s, t] * sums_l[u, v] - 2 * chains[s, t, u] * n[v]
    return float((terms * distinct).sum() / (n[s] * n[t] * n[u] * n[v] * distinct).sum())


def cka_of_kernels(k: Array, l: Array, sequence: NDArray[np.int64]) -> float:  # noqa: E741
    terms = [hsic_of_sequences(*pair, sequence) for pair in ((k, l), (k, k), (l, l))]
    return float(terms[0] / np.sqrt(terms[1] * terms[2]))


def cka_of_sequences(x: Array, y: Array, sequence: NDArray[np.int64]) -> float:
    x, y = centered(x), centered(y)
    return cka_of_kernels(x @ x.T, y @ y.T, sequence)
