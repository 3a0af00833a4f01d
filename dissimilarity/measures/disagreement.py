"""Disagreement of predictions."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.output_measure import OutputMeasure, check_finite


def disagreement(x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, ""]:
    """Share of samples for which the largest output differs.

    Args:
        x, y: logits (or probabilities) of the same classes.

    Returns:
        float64 scalar in [0, 1]; 0 = same predictions.
    """
    return Disagreement().of(x, y)


class Disagreement(OutputMeasure):
    """Disagreement: mean over samples of [argmax x != argmax y]; of equally large outputs the first counts.

    Args:
        samples: in a comparison of models, most positions that are compared.
        seed: which positions.
    """

    higher_is_more_similar: ClassVar[bool] = False
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = True
    invariant_to: frozenset[str] = frozenset({"isotropic_scaling"})
    minimum_samples: int = 1
    identical: ClassVar[float] = 0.0
    formula: ClassVar[str] = "mean over samples of [argmax x != argmax y]"
    cost: ClassVar[str] = "n classes"
    source: ClassVar[str] = "Klabunde et al. 2023"

    @property
    def label(self) -> str:
        """``disagreement``."""
        return "disagreement"

    def prepare(self, x: Float[Tensor, "n classes"]) -> Any:
        """The logits, in whose logarithms small differences could be lost."""
        check_finite(x)
        return x

    def per_sample(self, x: Float[Tensor, "n classes"], y: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """1 where the predictions differ."""
        return (x.argmax(-1) != y.argmax(-1)).double()
