"""What every measure declares, and how any of them is fed.

Each is a ``torchmetrics.Metric`` (``update(x, y)``, ``compute()``), has a function of the same value
(``functional.cka(x, y)``), takes a side apart (``prepare``) so that a reference is prepared once, and can be evaluated
by the tracker on sums and rows that all measures share. Two kinds: ``MomentMeasure`` and ``SampleMeasure``.
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from dissimilarity.measures.base.checks import check_pair
from dissimilarity.moments.products import as_samples

INVARIANCES = ("orthogonal", "isotropic_scaling", "translation", "permutation", "invertible_linear")


class Measure(Metric):
    """Base of all measures. Class attributes say what a value means; tests hold every measure to them.

    Attributes:
        higher_is_more_similar: direction of the value.
        bounds: smallest and largest value on data that the measure accepts.
        is_symmetric: whether swapping x and y leaves the value alone.
        is_metric: whether the value itself obeys the triangle inequality.
        invariant_to: the transformations of either side that leave the value alone, out of ``INVARIANCES``.
        minimum_samples: rows below which the value is not defined.
        minimum_width: features below which it is not.
        identical: the value of a representation compared with itself.
        formula, cost, source: for the table of measures in docs/measures.md, one line each: the value as a formula
            in plain text, operations for n samples of widths p and q, and the paper.
    """

    full_state_update: ClassVar[bool | None] = False
    higher_is_more_similar: ClassVar[bool]
    bounds: tuple[float, float]
    is_symmetric: bool
    is_metric: bool
    invariant_to: frozenset[str]
    minimum_samples: int
    minimum_width: int = 1
    identical: ClassVar[float]
    formula: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in tables, keys and figures; differs for every setting that changes the value."""

    @abstractmethod
    def prepare(self, x: Float[Tensor, "n p"]) -> Any:
        """What a comparison needs of one side alone; worth keeping for a reference that does not change."""

    @abstractmethod
    def between(self, x: Any, y: Any) -> Float[Tensor, ""]:
        """The value of two prepared sides of the same samples."""

    def of(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> Float[Tensor, ""]:
        """The value over all rows of x and y at once: what the function beside the class returns.

        Raises:
            ValueError: x and y cannot be compared; says why and what to do.
        """
        check_pair(x, y, self.minimum_samples)
        return self.between(self.prepare(as_samples(x)), self.prepare(as_samples(y)))

    def to_dissimilarity(self, value: Any) -> Any:
        """The value turned so that 0 = the same and up = more different; works on floats, arrays and tensors."""
        return self.identical - value if self.higher_is_more_similar else value - self.identical

    def calibrated(self, value: float, null: float) -> float:
        """Where a value stands between its null (0) and that of identical representations (1).

        (value - null) / (identical - null), whatever the direction, negative past the null; NaN without a null, or
        where the null itself reads as identical.
        """
        span = self.identical - null
        return (value - null) / span if span else math.nan
