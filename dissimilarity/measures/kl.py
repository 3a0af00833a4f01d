"""Kullback-Leibler divergence of model outputs."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.output_measure import OutputMeasure, mean_over_samples


def kl(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return the mean Kullback-Leibler divergence KL(x || y) of two models' output distributions, in nats.

    Mean over samples of sum p (log p - log q) (Kullback & Leibler 1951). Not symmetric; see ``KL``.

    Args:
        x: logits (n, classes): a tensor, numpy array or nested list. One sample is enough.
        y: logits of the other model, for the same classes.

    Returns:
        float64 scalar, 0 or more; 0 = same distributions.

    Examples:
        >>> x, y = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]]
        >>> print(f"{kl(x, x):.4f} {kl(x, y):.4f}")
        0.0000 0.6805
    """
    return mean_over_samples(kl_per_sample, x, y)


def kl_per_sample(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Return KL of each sample, from log-probabilities."""
    return (x.exp() * (x - y)).sum(-1)


class KL(OutputMeasure):
    """KL(x || y): mean over samples of sum_c p_c (log p_c - log q_c), p = softmax x, q = softmax y, in nats.

    Not symmetric: the expectation is under x.

    Args:
        max_samples: maximum number of positions in a comparison of models.
        seed: selects the positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, float("inf"))
    is_symmetric: ClassVar[bool] = False
    is_metric: bool = False
    invariant_to: frozenset[str] = frozenset()
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {"kl": "KL (nats)"}
    formula: ClassVar[str] = "mean over samples of sum p (log p - log q), p, q = softmax of the outputs"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Kullback & Leibler 1951"

    @property
    def label(self) -> str:
        """``kl``."""
        return "kl"

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return KL of each sample."""
        return kl_per_sample(x, y)
