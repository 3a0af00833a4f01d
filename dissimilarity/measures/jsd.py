"""Jensen-Shannon divergence of outputs."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.output_measure import OutputMeasure


def jsd(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """Mean Jensen-Shannon divergence of two models' output distributions, in bits.

    Args:
        x, y: logits of the same classes.

    Returns:
        float64 scalar in [0, 1]; 0 = same distributions, 1 = distributions that share no class.
    """
    return JSD().of(x, y)


class JSD(OutputMeasure):
    """Jensen-Shannon divergence: mean over samples of (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in bits.

    p = softmax x, q = softmax y. The divergence itself, which is the square of a metric.

    Args:
        samples: in a comparison of models, most positions that are compared.
        seed: which positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset()
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    formula: ClassVar[str] = "mean over samples of (KL(p || m) + KL(q || m)) / 2 in bits, m = (p + q) / 2"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Lin 1991"

    @property
    def label(self) -> str:
        """``jsd``."""
        return "jsd"

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Divergence of each sample."""
        zero = x.new_zeros(1)
        # log m - log p = log((1 + q / p) / 2), exactly 0 where p = q.
        above_x = torch.logaddexp(y - x, zero) - torch.logaddexp(zero, zero)
        above_y = torch.logaddexp(x - y, zero) - torch.logaddexp(zero, zero)
        return -(x.exp() * above_x + y.exp() * above_y).sum(-1) / (2 * math.log(2))
