"""Disagreement of predictions."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.checks import ArrayLike
from dissimilarity.measures.base.output_measure import OutputMeasure, mean_over_samples


def disagreement(x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
    """Return the share of samples for which the two models predict different classes.

    Mean over samples of [argmax x != argmax y] (Klabunde et al. 2023). A metric; invariant to isotropic scaling.

    Args:
        x: logits or probabilities (n, classes): a tensor, numpy array or nested list. One sample is enough.
        y: logits or probabilities of the other model, for the same classes.

    Returns:
        float64 scalar in [0, 1]; 0 = same predictions.

    Examples:
        >>> x, y = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]]
        >>> print(f"{disagreement(x, y):.2f}")
        0.50
    """
    return mean_over_samples(disagreement_per_sample, x, y, logits=True)


def disagreement_per_sample(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Return 1 where the predictions differ, else 0."""
    return (x.argmax(-1) != y.argmax(-1)).double()


class Disagreement(OutputMeasure):
    """Disagreement: mean over samples of [argmax x != argmax y]. If outputs tie, the first class counts.

    Args:
        max_samples: maximum number of positions in a comparison of models.
        seed: selects the positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = True
    invariant_to: frozenset[str] = frozenset({"isotropic_scaling"})
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    titles: ClassVar[Mapping[str, str]] = {"disagreement": "disagreement"}
    formula: ClassVar[str] = "mean over samples of [argmax x != argmax y]"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Klabunde et al. 2023"
    # Logarithms could lose small differences between logits.
    takes_logits: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """``disagreement``."""
        return "disagreement"

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return 1 where the predictions differ, else 0."""
        return disagreement_per_sample(x, y)
