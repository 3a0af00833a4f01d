"""Jensen-Shannon divergence of model outputs."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.output_measure import OutputMeasure, mean_over_samples


def jsd(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return the mean Jensen-Shannon divergence of two models' output distributions, in bits.

    Mean over samples of (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2 (Lin 1991). Symmetric; see ``JSD``.

    Args:
        x: logits (n, classes): a tensor, numpy array or nested list. One sample is enough.
        y: logits of the other model, for the same classes.

    Returns:
        float64 scalar in [0, 1]; 0 = same distributions, 1 = distributions that share no class.

    Examples:
        >>> x, y = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]]
        >>> print(f"{jsd(x, x):.4f} {jsd(x, y):.4f}")
        0.0000 0.2113
    """
    return mean_over_samples(jsd_per_sample, x, y)


def jsd_per_sample(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Return the divergence of each sample, from log-probabilities."""
    zero = x.new_zeros(1)
    # log m - log p = log((1 + q / p) / 2), exactly 0 where p = q.
    above_x = torch.logaddexp(y - x, zero) - torch.logaddexp(zero, zero)
    above_y = torch.logaddexp(x - y, zero) - torch.logaddexp(zero, zero)
    return -(x.exp() * above_x + y.exp() * above_y).sum(-1) / (2 * math.log(2))


class JSD(OutputMeasure):
    """Jensen-Shannon divergence: mean over samples of (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in bits.

    p = softmax x, q = softmax y. The value is the divergence itself, which is the square of a metric.

    Args:
        max_samples: maximum number of positions in a comparison of models.
        seed: selects the positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset()
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {"jsd": "JSD (bits)"}
    formula: ClassVar[str] = "mean over samples of (KL(p || m) + KL(q || m)) / 2 in bits, m = (p + q) / 2"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Lin 1991"

    @property
    def label(self) -> str:
        """``jsd``."""
        return "jsd"

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return the divergence of each sample."""
        return jsd_per_sample(x, y)
