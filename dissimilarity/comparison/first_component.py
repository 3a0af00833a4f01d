"""How much of a site's variance lies in one direction: what a heat map is read with.

Where that is nearly all, measures that follow variance (CKA, Procrustes) compare that one direction and little else,
and a few tokens of massive norm may be what makes it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dissimilarity.moments.side import Side

FILE = "first_components.jsonl"
"""In the folder of a run, of the sites of each heat map: `step, reference, of, site, share`, `of` model or reference.
It stands beside the table of curves, whose rows are of pairs."""
DENSE = 256
"""Up to this width all eigenvalues are as quick as the largest alone."""


def first_share(side: Side, site: str) -> float:
    """The share of the variance of a site in its first principal component, 0 to 1.

    It is the largest eigenvalue of the covariance over its trace, from the sums of all rows; from the rows themselves
    where only measures that compare rows are taken, of those. NaN where the site cannot be compared.
    """
    if side.problem(site):
        return math.nan
    if not side.moments:
        rows = side.samples[site].double()
        values = torch.linalg.svdvals(rows - rows.mean(0)).square()
        return float(values[0] / values.sum())
    sums = side.sums.totals[site]
    covariance = sums["xx"] - torch.outer(sums["x"], sums["x"]) / side.n
    return _largest(covariance) / float(covariance.trace())


def with_shares(rows: list[dict[str, Any]], a: Mapping[str, float], b: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of pairs of sites with the shares of both sites beside them, NaN where there is none."""
    return [
        row | {"first_pc_a": a.get(row["site_a"], math.nan), "first_pc_b": b.get(row["site_b"], math.nan)}
        for row in rows
    ]


def _largest(matrix: Tensor) -> float:
    """The largest eigenvalue of a symmetric float64 matrix."""
    if len(matrix) <= DENSE:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(matrix))
    # The error of the eigenvalue is the square of the vector's, to which the tolerance applies.
    tolerance: Any = 1e-7
    found: Any = eigsh(matrix.cpu().numpy(), 1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(found[0])
