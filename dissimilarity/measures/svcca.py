"""Canonical correlations of the leading principal components."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.exact import exact_where_same
from dissimilarity.measures.numerics.whitening import canonical, is_exact, leading, sum_of_correlations
from dissimilarity.moments.pair import Moments, centered


def svcca(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], variance: float = 0.99) -> Float[Tensor, ""]:
    """Singular vector CCA of two representations of the same samples; see ``SVCCA``.

    Args:
        x, y: rows are samples; widths may differ.
        variance: share of each side's variance that the components hold.

    Returns:
        float64 scalar in [0, 1]; 1 = same span of the leading components of the narrower side.
    """
    return SVCCA(variance).of(x, y)


class SVCCA(WhitenedMeasure):
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017).

    Columns are centered; of each side the fewest components are kept whose squared singular values hold ``variance`` of
    all; then sum rho_i / min(k_x, k_y). A few outlier dimensions can hold 99 % of the variance of a language model's
    activations, and then k = 1.

    The numbers kept are whole, so the value jumps where the share crosses a component: rounding there may cost 2e-5 and
    more, and the standard error holds the number kept for fixed.

    Args:
        variance: share of each side's variance that the components hold, above 0 and below 1.
    """

    higher_is_more_similar: ClassVar[bool] = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_symmetric: ClassVar[bool] = True
    is_metric: bool = False
    invariant_to: ClassVar[frozenset[str]] = frozenset(
        {"orthogonal", "isotropic_scaling", "translation", "permutation"}
    )
    minimum_samples: int = 2
    identical: ClassVar[float] = 1.0
    formula: ClassVar[str] = "mean of rho over the fewest components that hold a share of the variance"
    cost: ClassVar[str] = "n (p q + p^2 + q^2), p^3 + q^3"
    source: ClassVar[str] = "Raghu et al. 2017"

    def __init__(self, variance: float = 0.99) -> None:
        super().__init__()
        if not 0 < variance < 1:
            raise ValueError(f"expected variance above 0 and below 1, found {variance}; cca takes all components")
        self.variance = variance

    @property
    def label(self) -> str:
        """``svcca``, with the share where it is not 0.99."""
        return "svcca" if self.variance == 0.99 else f"svcca_{self.variance:g}"

    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The mean from sums; see the class."""
        xx, yy, xy = centered(m)
        x, y = leading(xx, m["n"], self.variance), leading(yy, m["n"], self.variance)
        rank = x.rank.minimum(y.rank)
        value = sum_of_correlations(canonical(x, y, xy), rank, is_exact(m)) / rank
        return exact_where_same(m, value, self.identical)
