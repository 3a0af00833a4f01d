"""Kullback-Leibler divergence of outputs."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.output_measure import OutputMeasure


def kl(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """Mean Kullback-Leibler divergence KL(x || y) of two models' output distributions, in nats.

    Args:
        x, y: logits of the same classes.

    Returns:
        float64 scalar, 0 or more; 0 = same distributions.
    """
    return KL().of(x, y)


class KL(OutputMeasure):
    """KL(x || y): mean over samples of sum_c p_c (log p_c - log q_c), p = softmax x, q = softmax y, in nats.

    Not symmetric: what x expects, coded by y.

    Args:
        samples: in a comparison of models, most positions that are compared.
        seed: which positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, float("inf"))
    is_symmetric: ClassVar[bool] = False
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset()
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    formula: ClassVar[str] = "mean over samples of sum p (log p - log q), p, q = softmax of the outputs"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Kullback & Leibler 1951"

    @property
    def label(self) -> str:
        """``kl``."""
        return "kl"

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """KL of each sample."""
        return (x.exp() * (x - y)).sum(-1)
