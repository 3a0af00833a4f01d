"""Measures that follow exactly from moments, so that they stream over any number of samples."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.influence import estimate_again, sample_influence
from dissimilarity.inference.jackknife import estimate, with_slopes
from dissimilarity.measures.base.checks import (
    ArrayLike,
    as_tensors,
    check_count,
    check_samples,
    check_widths,
    no_variance,
)
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.numerics.leverage import Leverage, leverage
from dissimilarity.measures.numerics.rearranged_hsic import PairKernel, kernels_are_cheaper
from dissimilarity.measures.numerics.whitening import Whitening, is_nearly_collinear
from dissimilarity.moments import metric_state
from dissimilarity.moments.pair import Moments, PreparedSide, moment_side, moments_of_sides, prepare_side
from dissimilarity.moments.paired_samples import PairedSamples, Part
from dissimilarity.moments.products import as_samples, column_means
from dissimilarity.moments.second_pass import SecondPass
from dissimilarity.moments.stack import Stack

DUAL = frozenset({"orthogonal", "translation"})
"""A measure with these invariances can be computed in any coordinates of a side's span."""

Estimate = tuple[Float[Tensor, " pairs"], Float[Tensor, "sequences pairs"]]
"""Values of pairs, and the influences of sequences on them."""


def whitened_moments_of(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], dual: bool = True) -> Moments:
    """Return the moments of two sides for a measure that whitens them, in the precision that this needs.

    With fewer samples than twice the dimensions, or nearly collinear ones, some directions have so little variance that
    float32 products would lose them, so products are taken in float64.

    Args:
        x: samples in one representation.
        y: the same samples in the other.
        dual: whether to write a side with no more samples than dimensions in coordinates along its own principal
            directions, (n, rank) instead of (n, p). The value of a measure that is invariant to rotation stays the
            same.
    """
    return whitened_between(whitened_side(x, dual), whitened_side(y, dual))


def _needs_float64(x: Float[Tensor, "n p"]) -> bool:
    """Return whether float32 products of samples, if there are more than dimensions, would lose a direction."""
    return (
        x.dtype != torch.float64
        and len(x) >= x.shape[1]
        and whitened_side(x, dual=False).samples.dtype == torch.float64
    )


def whitened_side(x: Float[Tensor, "n p"], dual: bool) -> PreparedSide:
    """Return one side of ``whitened_moments_of``."""
    if dual and len(x) <= x.shape[1]:
        return prepare_side(principal_coordinates(x))
    if len(x) < 2 * x.shape[1]:
        return prepare_side(x.double())
    side = prepare_side(x)
    if side.samples.dtype == torch.float64:
        return side
    n = side.sums["x"].new_tensor(float(len(x)))
    return prepare_side(x.double()) if is_nearly_collinear({"n": n, **side.sums}) else side


def whitened_between(x: PreparedSide, y: PreparedSide) -> Moments:
    """Return the moments of two sides of ``whitened_side``, in the precision of the more precise one."""
    dtype = torch.promote_types(x.samples.dtype, y.samples.dtype)
    return moments_of_sides(*(replace(side, samples=side.samples.to(dtype)) for side in (x, y)))


def principal_coordinates(x: Float[Tensor, "n p"]) -> Float[Tensor, "n rank"]:
    """Return n <= p centered samples along their principal directions, without those that are only rounding error."""
    centered = x.double() - column_means(x)
    left, sizes, _ = torch.linalg.svd(torch.linalg.qr(centered.T, mode="r").R.T)
    return (left * sizes)[:, sizes > sizes[0] * max(x.shape) * torch.finfo(x.dtype).eps]


class MomentMeasure(Measure):
    """A measure that is a differentiable formula of ``Moments``.

    Attributes:
        fits_map: whether the value is the best over maps from one side to the other.
        reads_kernels: whether it also follows from kernels of pairs of sequences, so that many nulls cost little.
        kernel: computes such a kernel from samples (sequences, length, p) of sequences of equal length.
        prefers_kernels: whether kernels take less work than sums in each rearrangement.
    """

    fits_map: bool = False
    reads_kernels: bool = False
    kernel = staticmethod(PairKernel.of)
    prefers_kernels = staticmethod(kernels_are_cheaper)

    def __init__(self) -> None:
        super().__init__()
        # One vector, or none before the first batch: torchmetrics gathers those of all processes into one.
        self.add_state("packed", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    @abstractmethod
    def from_moments(self, m: Moments) -> Float[Tensor, "*pairs"]:
        """Return the value from sums, over any leading dimensions.

        It is differentiable in the sums and does not depend on their offset.
        """

    def self_terms(self, totals: Moments, units: Moments) -> Any:
        """Compute what ``estimate`` needs from one side alone, once for all partners of that side; None if nothing.

        Args:
            totals: ``n`` and the sums of the side, under first-side names, over all samples.
            units: the same sums per jackknife unit; empty where no error bar is needed.
        """

    def from_terms(self, m: Moments, x: Sequence[Any], y: Sequence[Any]) -> Float[Tensor, "*pairs"]:
        """Return the value from sums, with the ``self_terms`` of both sides at hand."""
        return self.from_moments(m)

    def of_kernels(
        self, x: PairKernel, y: PairKernel, order: Int[Tensor, "nulls sequences"], x_terms: Any, y_terms: Any
    ) -> Float[Tensor, " nulls"]:
        """Return the value with sequence order[k, s] of x in the place of sequence s, if ``reads_kernels``.

        Args:
            x: the kernel of the first side, whose sequences have equal lengths.
            y: the kernel of the second side.
            order: the rearrangements.
            x_terms: ``self_terms`` of the first side.
            y_terms: ``self_terms`` of the second side.
        """
        raise NotImplementedError

    def estimate(
        self, totals: Moments, units: Moments, x: Sequence[Any], y: Sequence[Any]
    ) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, " units *pairs"]]:
        """Return the value and the influences of the units, from sums over all samples and sums per jackknife unit.

        By default these follow from the derivative. A measure overrides this if its formula is cheap compared with
        reading the sums, so that it can be evaluated with each unit left out in turn.

        Args:
            totals: the sums over all samples, as for ``jackknife.estimate``.
            units: the same sums per unit.
            x: ``self_terms`` of the first side, of all pairs or of the one that they share.
            y: ``self_terms`` of the second sides.
        """
        return estimate(self.from_moments, totals, units)

    def terms_again(self, totals: Moments) -> SecondPass[Any] | None:
        """Compute what ``estimate_again`` needs from one side alone, from its sums and its samples with themselves.

        None if it needs nothing.
        """

    def estimate_again(self, totals: Moments, x: Sequence[Any], y: Sequence[Any]) -> SecondPass[Estimate]:
        """Return the value and the influences of the sequences, by reading the samples again.

        Args:
            totals: the sums over all samples.
            x: ``terms_again`` of the first side, of all pairs or of the one that they share.
            y: ``terms_again`` of the second sides.
        """
        return estimate_again(self.from_moments, totals)

    def rank(self, side: Moments) -> int | None:
        """Return the rank of a side's whitening, from its sums; None if nothing is whitened, or in part."""

    def forced(self, x_rank: int, y_rank: int, n: int) -> int:
        """Return in how many directions n samples of sides of these ranks agree whatever the data."""
        return 0

    def sample_influence(self, totals: Moments, samples: PairedSamples) -> Float[Tensor, "samples pairs"]:
        """Return the derivative of the value with respect to the weight of each sample, sequence after sequence."""
        return sample_influence(with_slopes(self.from_moments, totals)[1], samples.parts())

    def prepare(self, x: Float[Tensor, "n p"]) -> PreparedSide:
        """Return the centered samples and their sums."""
        return moment_side(x, self.invariant_to >= DUAL)

    def between(self, x: PreparedSide, y: PreparedSide) -> Float[Tensor, ""]:
        """Return the value of two prepared sides."""
        return self.from_moments(moments_of_sides(x, y))

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the samples of one batch."""
        x, y = as_tensors(x, y)
        check_samples(x, y)
        self.packed = with_batch(self.packed, x, y)

    def compute(self) -> Float[Tensor, ""]:
        """Return the value over all samples seen, on all processes."""
        state = metric_state.merged(self.packed) if len(self.packed) else None
        check_count(0 if state is None else metric_state.count(state), self.minimum_samples)
        assert state is not None
        samples = metric_state.samples(state)
        if samples is not None:
            return self.value(*samples)
        total = metric_state.sums(state)
        check_variance(total)
        return self.from_moments(total)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge as torchmetrics does (``forward``, ``merge_state``), but keep one vector, not one per batch."""
        super()._reduce_states(incoming_state)
        if len(self.packed):
            self.packed = [metric_state.merged(self.packed)]


def with_batch(packed: list[Tensor], x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> list[Tensor]:
    """Return the state of a metric, one vector or none, with the samples of a batch."""
    if not len(x):
        return packed
    if packed:
        check_widths(metric_state.widths(packed), x, y)
    return [metric_state.merged([*packed, metric_state.pack_samples(as_samples(x), as_samples(y))])]


def check_variance(m: Moments) -> None:
    """Raise ValueError if all samples of a side are equal, by their sums."""
    for name, s, a in (("x", m["x"], m["a"]), ("y", m["y"], m["b"])):
        # Relative to the second moment about the mean of the first samples, which may be off by a rounding.
        if bool(a - s @ s / m["n"] <= 1e-12 * a):
            raise no_variance(name)


class WhitenedMeasure(MomentMeasure):
    """A moment measure that whitens a side; see ``whitened_moments_of``."""

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the samples of one batch, in float64 if its features are nearly collinear."""
        x, y = as_tensors(x, y)
        check_samples(x, y)
        super().update(*(side.double() if _needs_float64(side) else side for side in (x, y)))

    def prepare(self, x: Float[Tensor, "n p"]) -> PreparedSide:
        """Return the centered samples and their sums."""
        return whitened_side(x, "orthogonal" in self.invariant_to)

    def between(self, x: PreparedSide, y: PreparedSide) -> Float[Tensor, ""]:
        """Return the value of two prepared sides, in the precision of the more precise one."""
        return self.from_moments(whitened_between(x, y))

    def whitened(self, side: Moments) -> Whitening | None:
        """Return the whitening of each side, from its sums; None where only one side is whitened, or in part."""

    def rank(self, side: Moments) -> int | None:
        """Return the rank of the whitening of a side."""
        white = self.whitened({key: value[None] for key, value in side.items()})
        return None if white is None else int(white.rank)

    def forced(self, x_rank: int, y_rank: int, n: int) -> int:
        """Return in how many directions the spans of both sides meet: centered samples have n - 1 dimensions."""
        return min(x_rank, y_rank, max(0, x_rank + y_rank - (n - 1)))

    def terms_again(self, totals: Moments) -> SecondPass[Leverage] | None:
        """Return how far single sequences decide the whitening of a side."""
        white = self.whitened({key: value[None] for key, value in totals.items()})
        return None if white is None else leverage(white, totals["x"] / totals["n"])

    def estimate_again(
        self, totals: Moments, x: Sequence[Leverage | None], y: Sequence[Leverage | None]
    ) -> SecondPass[Estimate]:
        """Return the value, and the influences of the sequences with their leverage on the whitening."""
        first, seconds = x[0], [own for own in y if own is not None]
        if first is None:
            return super().estimate_again(totals, x, y)

        def spread(part: Part) -> Part:
            sides = (([first], part.x), (seconds, part.y))
            stretched = (
                Stack(side.chunk, side.sites, [own.spread(samples, part) for own, samples in zip(*both, strict=True)])
                for owns, side in sides
                for both in [(owns, side.samples)]
            )
            x_samples, y_samples = stretched
            return replace(part, x=x_samples, y=y_samples)

        return estimate_again(self.from_moments, totals, spread)
