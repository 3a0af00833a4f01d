"""The share of a site's variance that lies in one direction, which tells how to read a heat map.

If one direction has nearly all the variance, measures that weight by variance (CKA, Procrustes) compare that direction
and little else. A few tokens of massive norm may be the cause.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dissimilarity.moments.side import Side

DENSE = 256
"""Width up to which all eigenvalues are as fast as the largest alone."""


def first_share(side: Side, site: str) -> float:
    """Return the share of a site's variance in its first principal component, 0 to 1.

    It is the largest eigenvalue of the covariance over its trace, from the sums over all samples; without such sums,
    from the samples that sample measures read. NaN where the site cannot be compared.
    """
    if side.problem(site):
        return math.nan
    if not side.moments:
        samples = side.samples[site].double()
        squares = torch.linalg.svdvals(samples - samples.mean(0)).square()
        return float(squares[0] / squares.sum())
    sums = side.sums.totals[site]
    covariance = sums["xx"] - torch.outer(sums["x"], sums["x"]) / side.n
    return _largest_eigenvalue(covariance) / float(covariance.trace())


def with_shares(records: list[dict[str, Any]], a: Mapping[str, float], b: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return records of site pairs with the shares of both sites beside them, NaN where there is none."""
    return [
        record | {"first_pc_a": a.get(record["site_a"], math.nan), "first_pc_b": b.get(record["site_b"], math.nan)}
        for record in records
    ]


def _largest_eigenvalue(matrix: Tensor) -> float:
    """Return the largest eigenvalue of a symmetric float64 matrix."""
    if len(matrix) <= DENSE:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(matrix))
    # The error of the eigenvalue is the square of the eigenvector's, to which the tolerance applies.
    tolerance: Any = 1e-7
    eigenvalues: Any = eigsh(matrix.cpu().numpy(), 1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(eigenvalues[0])
