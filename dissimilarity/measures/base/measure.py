"""The base class of all measures: what a measure declares and how it is evaluated.

A measure is a function of two representations (``functional.cka(x, y)``). The class of the same name is a
``torchmetrics.Metric`` around it (``update(x, y)``, ``compute()``) that streams over batches. It also splits the
computation: ``prepare`` does what one side needs alone, so that a fixed reference is prepared once, and ``between``
compares two prepared sides.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from dissimilarity.measures.base.checks import ArrayLike, paired_samples
from dissimilarity.probe.arguments import shown

INVARIANCES = ("orthogonal", "isotropic_scaling", "translation", "permutation", "invertible_linear")


class Measure(Metric):
    """Base of all measures. Class attributes say what a value means, and tests hold every measure to them.

    Attributes:
        higher_is_more_similar: direction of the value.
        bounds: smallest and largest value on data that the measure accepts.
        is_symmetric: whether swapping x and y leaves the value unchanged.
        is_metric: whether the value itself obeys the triangle inequality.
        invariant_to: the transformations of either side that leave the value unchanged, among ``INVARIANCES``.
        minimum_samples: smallest number of samples for which the value is defined.
        minimum_width: smallest number of features for which it is defined.
        by_sequence: whether whole sequences are its independent units, wherever they are known.
        crossfit: whether a map is fitted to one half of the units and scored on the other.
        identical: the value of a representation compared with itself.
        titles: what figures call it, by the beginning of its labels; a label without a title is shown as it is.
        formula: the value as a formula in plain text, one line.
        cost: number of operations for n samples of widths p and q, one line.
        source: the paper, one line. All three appear in docs/measures.md.
    """

    full_state_update: ClassVar[bool | None] = False
    higher_is_more_similar: ClassVar[bool]
    bounds: tuple[float, float]
    is_symmetric: bool
    is_metric: bool
    invariant_to: frozenset[str]
    minimum_samples: int
    minimum_width: int = 1
    by_sequence: bool = False
    crossfit: bool = False
    identical: ClassVar[float]
    titles: ClassVar[Mapping[str, str]] = {}
    formula: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """The name in tables, keys and figures. It differs for every setting that changes the value."""

    @abstractmethod
    def prepare(self, x: Float[Tensor, "n p"]) -> Any:
        """Compute everything that a comparison needs from one side alone; keep it for a fixed reference."""

    @abstractmethod
    def between(self, x: Any, y: Any) -> Float[Tensor, ""]:
        """Return the value of two prepared sides of the same samples."""

    def value(self, x: ArrayLike, y: ArrayLike) -> Float[Tensor, ""]:
        """Return the value over all samples of x and y at once, as the function of the same name does.

        Raises:
            ValueError: x and y cannot be compared. The message says why and what to do.
        """
        x, y = paired_samples(x, y, self.minimum_samples)
        return self.between(self.prepare(x), self.prepare(y))

    def to_dissimilarity(self, value: Any) -> Any:
        """Map a value (float, array or tensor) so that 0 = identical and larger = more different."""
        return self.identical - value if self.higher_is_more_similar else value - self.identical


def check_any(measures: Sequence[Measure]) -> None:
    """Check that there is a measure.

    Raises:
        ValueError: there is none.
    """
    if not measures:
        raise ValueError("expected one measure or more, found none; pass some, such as measures=[CKA()]")


def as_measures(measures: Measure | Iterable[Measure] | Mapping[str, Measure]) -> list[Measure]:
    """Return one measure, or several in a list or by name, as a list.

    Raises:
        ValueError: one of them is not a measure.
    """
    if isinstance(measures, Mapping):
        measures = measures.values()
    is_one = isinstance(measures, (Measure, str, type)) or not hasattr(measures, "__iter__")
    listed: list[Any] = [measures] if is_one else list(measures)  # pyright: ignore[reportArgumentType]
    for measure in listed:
        if not isinstance(measure, Measure):
            raise ValueError(f"measures: expected measures such as CKA(), found {shown(measure)}")
    return listed
