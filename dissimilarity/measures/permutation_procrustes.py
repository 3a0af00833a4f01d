"""Procrustes distance after the best permutation of neurons."""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.numerics.exact import angle, exact_where_same
from dissimilarity.measures.procrustes import Kind
from dissimilarity.moments.pair import Moments, centered, traces


def permutation_procrustes(
    x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], kind: Kind = "angular"
) -> Float[Tensor, ""]:
    """Distance after the best permutation of neurons; see ``PermutationProcrustes``.

    Args:
        x, y: rows are samples; widths may differ (the narrower side counts as padded with zeros).
        kind: ``angular`` (radians) or ``squared``.

    Returns:
        float64 scalar; 0 = same up to the order of neurons, scale and translation.
    """
    return PermutationProcrustes(kind).of(x, y)


class PermutationProcrustes(MomentMeasure):
    """Distance after the best matching of neurons, of centered representations of unit Frobenius norm.

    With c = max over permutations P of tr(P' Xc'Yc) / (|Xc|_F |Yc|_F), an assignment: ``angular`` is arccos c in
    [0, pi], a metric (Williams et al. 2021); ``squared`` is 2 - 2c in [0, 4]. The narrower side is padded with zeros,
    so that some neurons of the wider one stay alone. Neurons are matched as they are: a sign counts, and no rotation
    is undone.

    The standard error holds the matching for fixed. An angle t has the rounding of c times 1 / t; see ``Procrustes``.

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
    formula: ClassVar[str] = "arccos c or 2 - 2c, c = max over P of tr(P' Xc'Yc) / (|Xc|_F |Yc|_F)"
    cost: ClassVar[str] = "n p q, one assignment of p to q: up to p^3"
    source: ClassVar[str] = "Williams et al. 2021"

    def __init__(self, kind: Kind = "angular") -> None:
        super().__init__()
        if kind not in ("angular", "squared"):
            raise ValueError(f"expected kind angular or squared, found {kind!r}")
        self.kind = kind
        self.is_metric = kind == "angular"
        self.bounds = (0.0, torch.pi if kind == "angular" else 4.0)

    @property
    def label(self) -> str:
        """``permutation_procrustes`` or ``permutation_procrustes_squared``."""
        return "permutation_procrustes" if self.kind == "angular" else "permutation_procrustes_squared"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The distance from sums; see the class."""
        xx, yy, xy = centered(m)
        matched = (xy * _matching(xy.detach())).sum((-2, -1))
        cosine = matched / (traces(xx) * traces(yy)).sqrt()
        value = angle(cosine) if self.kind == "angular" else 2 - 2 * cosine.clamp(max=1)
        return exact_where_same(m, value, self.identical)


def _matching(product: Float[Tensor, "*pairs p q"]) -> Float[Tensor, "*pairs p q"]:
    """1 where neuron i is matched with neuron j so that the sum of the matched products is largest, else 0."""
    chosen = np.zeros(product.shape)
    products = product.cpu().numpy()
    for pair in np.ndindex(product.shape[:-2]):
        chosen[pair][linear_sum_assignment(products[pair], maximize=True)] = 1
    return torch.from_numpy(chosen).to(product)
