"""Measures that follow exactly from moments, so that they stream over any number of samples."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import estimate
from dissimilarity.measures.base.checks import check_count, check_rows, check_widths, no_variance
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments import metric_state
from dissimilarity.moments.pair import Moments, Rows, as_rows, between_rows, mean, own_coordinates, prepared_rows


class MomentMeasure(Measure):
    """A measure that is a differentiable formula of ``Moments``.

    Where there are fewer samples than dimensions, and the value does not change under rotation, a side is first written
    in coordinates of its own span, (n, n) instead of (n, p): the dual form, of the same value.
    """

    def __init__(self) -> None:
        super().__init__()
        # One vector, or none before the first batch: torchmetrics gathers those of all processes into one.
        self.add_state("packed", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @abstractmethod
    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """The value, differentiable in the sums and independent of their shift; over any leading dimensions."""

    def self_terms(self, totals: Moments, groups: Moments) -> Any:
        """What ``estimate`` needs of one side alone, computed once for all partners of that side; None if nothing.

        Args:
            totals, groups: ``n`` and the sums of the side, under first-side names, over all samples and per group.
        """

    def estimate(
        self, totals: Moments, groups: Moments, x: Sequence[Any], y: Sequence[Any]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
        """The value from sums and its standard error from those per group.

        By default from the derivative. A measure overrides it that costs little beside reading the sums, so that it can
        be taken anew without each group.

        Args:
            totals, groups: as for ``jackknife.estimate``.
            x: ``self_terms`` of the first side, of all pairs or of the one that they share.
            y: of the second sides.
        """
        return estimate(self.from_moments, totals, groups)

    def prepare(self, x: Float[Tensor, "n p"]) -> Rows:
        """Rows about their mean, and their sums."""
        dual = len(x) < x.shape[1] and {"orthogonal", "translation"} <= self.invariant_to
        return prepared_rows(own_coordinates(x) if dual else x)

    def between(self, x: Rows, y: Rows) -> Float[Tensor, ""]:
        """The value of two prepared sides."""
        return self.from_moments(between_rows(x, y))

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch."""
        check_rows(x, y)
        if not len(x):
            return
        if self.packed:
            check_widths(metric_state.widths(self.packed), x, y)
        self.packed = [metric_state.merged([*self.packed, metric_state.pack_rows(as_rows(x), as_rows(y))])]

    def compute(self) -> Float[Tensor, ""]:
        """The value over all samples seen, on all processes."""
        state = metric_state.merged(self.packed) if len(self.packed) else None
        check_count(0 if state is None else metric_state.count(state), self.minimum_samples)
        assert state is not None
        rows = metric_state.rows(state)
        if rows is not None:
            return self.of(*rows)
        total = metric_state.sums(state)
        for name, s, a in (("x", total["x"], total["a"]), ("y", total["y"], total["b"])):
            # Relative to the second moment about the first rows' mean, which float64 rows may miss by a rounding.
            if bool(a - s @ s / total["n"] <= 1e-12 * a):
                raise no_variance(name)
        return self.from_moments(total)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merges as torchmetrics does (``forward``, ``merge_state``), but keeps one vector, not one a batch."""
        super()._reduce_states(incoming_state)
        if len(self.packed):
            self.packed = [metric_state.merged(self.packed)]


class WhitenedMeasure(MomentMeasure):
    """A moment measure that whitens a side.

    Where samples are fewer than twice the dimensions, some directions have so little variance that float32 products
    would lose them: products are then taken in float64.
    Where samples are no more than the dimensions, and the value is invariant to rotation, they are first written in
    coordinates along their own principal directions, (n, rank) instead of (n, p).
    """

    def prepare(self, x: Float[Tensor, "n p"]) -> Rows:
        """Rows about their mean, and their sums."""
        if len(x) <= x.shape[1] and "orthogonal" in self.invariant_to:
            return prepared_rows(principal_coordinates(x))
        return prepared_rows(x.double() if len(x) < 2 * x.shape[1] else x)

    def between(self, x: Rows, y: Rows) -> Float[Tensor, ""]:
        """The value of two prepared sides, in the precision of the more precise one."""
        dtype = torch.promote_types(x.rows.dtype, y.rows.dtype)
        return self.from_moments(between_rows(*(replace(side, rows=side.rows.to(dtype)) for side in (x, y))))


def principal_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n rank"]:
    """The rows about their mean, n <= p of them, along their principal directions, without those of rounding alone."""
    rows = x.double() - mean(x)
    left, sizes, _ = torch.linalg.svd(torch.linalg.qr(rows.T, mode="r").R.T)
    return (left * sizes)[:, sizes > sizes[0] * max(x.shape) * torch.finfo(x.dtype).eps]
