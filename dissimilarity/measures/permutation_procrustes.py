"""Procrustes distance after the best permutation of neurons."""

from collections.abc import Mapping
from typing import ClassVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import angle, exact_where_same
from dissimilarity.measures.procrustes import Kind
from dissimilarity.moments.pair import Moments, centered, moments_of, traces
from dissimilarity.probe.arguments import choice


def permutation_procrustes(x: ArrayLike, y: ArrayLike, kind: Kind = "angular") -> Float[Tensor, ""]:
    """Return the distance after the best permutation of neurons; see ``PermutationProcrustes``.

    arccos c or 2 - 2c with c = max over permutations P of tr(P' Xc'Yc) / (|Xc|_F |Yc|_F) (Williams et al. 2021).
    Symmetric; invariant to permutation, isotropic scaling and translation of either side.

    Args:
        x: at least 2 samples, (n, p): a tensor, numpy array or nested list. The narrower side counts as padded with
            zeros.
        y: the same samples in the other representation, (n, q).
        kind: ``angular`` (radians, in [0, pi], a metric) or ``squared`` (in [0, 4]).

    Returns:
        float64 scalar; 0 = same up to the order of neurons, scale and translation.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, -1.0]]
        >>> swapped = [[b, a] for a, b in x]
        >>> y = [[2.0], [1.5], [3.0], [0.5]]
        >>> print(f"{permutation_procrustes(x, swapped):.4f} {permutation_procrustes(x, y):.4f}")
        0.0000 0.8085
    """
    choice("kind", kind, get_args(Kind))
    samples = paired_samples(x, y, PermutationProcrustes.minimum_samples)
    return permutation_procrustes_from_moments(moments_of(*samples, dual=False), kind)


def permutation_procrustes_from_moments(m: Moments, kind: Kind) -> Float[Tensor, "*pairs"]:
    """Return the distance from sums."""
    xx, yy, xy = centered(m)
    matched = (xy * _matching(xy.detach())).sum((-2, -1))
    cosine = matched / (traces(xx) * traces(yy)).sqrt()
    value = angle(cosine) if kind == "angular" else 2 - 2 * cosine.clamp(max=1)
    return exact_where_same(m, value, PermutationProcrustes.identical)


class PermutationProcrustes(MomentMeasure):
    """Distance after the best matching of neurons, of centered representations with unit Frobenius norm.

    With c = max over permutations P of tr(P' Xc'Yc) / (|Xc|_F |Yc|_F), an assignment problem: ``angular`` is arccos c
    in [0, pi], a metric (Williams et al. 2021); ``squared`` is 2 - 2c in [0, 4]. The narrower side is padded with
    zeros, so some neurons of the wider one stay unmatched. Neurons are matched unchanged: signs count, and no
    rotation is undone.

    The standard error holds the matching fixed. An angle t has the rounding of c times 1 / t; see ``Procrustes``.

    Args:
        kind: ``angular`` or ``squared``.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 4.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset({"isotropic_scaling", "translation", "permutation"})
    minimum_samples: int = 2
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {
        "permutation_procrustes": "permutation Procrustes angle (rad)",
        "permutation_procrustes_squared": "squared permutation Procrustes distance",
    }
    formula: ClassVar[str] = "arccos c or 2 - 2c, c = max over P of tr(P' Xc'Yc) / (|Xc|_F |Yc|_F)"
    cost: ClassVar[str] = "n p q, one assignment of p to q: up to p^3"
    source: ClassVar[str] = "Williams et al. 2021"

    def __init__(self, kind: Kind = "angular") -> None:
        super().__init__()
        choice("kind", kind, get_args(Kind))
        self.kind: Kind = kind
        self.is_metric = kind == "angular"
        self.bounds = (0.0, torch.pi if kind == "angular" else 4.0)

    @property
    def label(self) -> str:
        """``permutation_procrustes`` or ``permutation_procrustes_squared``."""
        return "permutation_procrustes" if self.kind == "angular" else "permutation_procrustes_squared"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the distance from sums."""
        return permutation_procrustes_from_moments(m, self.kind)


def _matching(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs p q"]:
    """Return 1 where neurons i and j are matched, else 0. The matching maximizes the sum of the matched products."""
    is_matched = np.zeros(product.shape)
    products = product.cpu().numpy()
    for pair in np.ndindex(product.shape[:-2]):
        is_matched[pair][linear_sum_assignment(products[pair], maximize=True)] = 1
    return torch.from_numpy(is_matched).to(product)
