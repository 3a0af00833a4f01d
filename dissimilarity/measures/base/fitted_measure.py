"""Measures that are the best over maps between two sides, fitted to all samples or cross-fitted on halves of them."""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dissimilarity.measures.base.checks import (
    ArrayLike,
    as_tensors,
    check_count,
    check_samples,
    paired_samples,
    unit_numbers,
)
from dissimilarity.measures.base.moment_measure import (
    MomentMeasure,
    check_variance,
    whitened_moments_of,
    whitened_side,
    with_batch,
)
from dissimilarity.moments import metric_state
from dissimilarity.moments.halves import SUMS_OF_HALVES, as_first_half, in_first_half
from dissimilarity.moments.pair import Moments, PreparedSide, moments_of_sides, prepare_side
from dissimilarity.probe.arguments import flag

WHITENED_MINIMUM = 6
"""Smallest number of samples whose halves determine a map of one dimension to another."""


def halved_moments_of(x: PreparedSide, y: PreparedSide, units: ArrayLike | None = None) -> Moments:
    """Return the moments of two prepared sides, with the sums over the first half of the units.

    Args:
        x: one side.
        y: the other side.
        units: the unit of each sample, which halves never divide; alternate units form the halves. None = each sample
            its own.

    Raises:
        ValueError: units that do not fit the samples, or fewer than 2 of them.
    """
    n = x.samples.shape[1]
    numbers = unit_numbers(units, n)
    is_first = in_first_half(torch.arange(n) if numbers is None else numbers)
    if bool(is_first.all()):
        raise ValueError("cross-fitting needs at least 2 units, found 1; pass more sequences, or leave out crossfit")
    first = moments_of_sides(*(_part(side, is_first.to(side.samples.device)) for side in (x, y)))
    return moments_of_sides(x, y) | _first_half(first)


def fitted_moments_of(
    x: ArrayLike, y: ArrayLike, crossfit: bool, units: ArrayLike | None, dual: bool = True
) -> Moments:
    """Return the moments of two sides for a measure that whitens them, with sums over halves where it reads them.

    Args:
        x: samples in one representation.
        y: the same samples in the other.
        crossfit: whether the measure reads sums over halves.
        units: as for ``halved_moments_of``.
        dual: as for ``whitened_moments_of``.
    """
    if not flag("crossfit", crossfit):
        return whitened_moments_of(*paired_samples(x, y, 2), dual)
    x, y = paired_samples(x, y, WHITENED_MINIMUM)
    return halved_moments_of(whitened_side(x.double(), dual), whitened_side(y.double(), dual), units)


def _part(side: PreparedSide, selected: Bool[Tensor, " n"]) -> PreparedSide:
    """Return some of the samples of a prepared side, about the same offset."""
    return prepare_side(side.samples[0, selected], torch.zeros_like(side.sums["x"]))


def _first_half(m: Moments) -> Moments:
    """Return those sums over the first half that measures read, under their names among all sums."""
    second_side = {"y", "yy", "b", "eps_y"}
    return as_first_half({key: m[key] for key in m if key in SUMS_OF_HALVES or key in second_side})


class FittedMeasure(MomentMeasure):
    """A moment measure whose value is the best over maps from one side to the other.

    Args:
        crossfit: whether the map is fitted to one half of the units and scored on the other.
    """

    fits_map: bool = True

    def __init__(self, crossfit: bool = False) -> None:
        super().__init__()
        self.crossfit = flag("crossfit", crossfit)
        if crossfit:
            # The state of the second half; ``packed`` is then that of the first.
            self.add_state("packed_second", [], dist_reduce_fx="cat")
            self.set_dtype(torch.float64)

    @property
    def full_state_update(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a batch depends on those before it: halves alternate over the whole stream."""
        return self.crossfit

    def with_suffix(self, label: str) -> str:
        """Return a label that tells whether values are cross-fitted."""
        return f"{label}_crossfit" if self.crossfit else label

    def prepare(self, x: Float[Tensor, "n p"]) -> PreparedSide:
        """Return the centered samples and their sums; in float64 for halves, which have fewer samples."""
        return super().prepare(x.double() if self.crossfit else x)

    def between(self, x: PreparedSide, y: PreparedSide) -> Float[Tensor, ""]:
        """Return the value of two prepared sides; alternate samples form the halves."""
        return self.from_moments(halved_moments_of(x, y)) if self.crossfit else super().between(x, y)

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the samples of one batch."""
        if not self.crossfit:
            super().update(x, y)
            return
        x, y = as_tensors(x, y)
        check_samples(x, y)
        seen = sum(metric_state.count(metric_state.merged(half)) for half in self._halves())
        is_first = in_first_half(seen + torch.arange(len(x)))
        for name, selected in (("packed", is_first), ("packed_second", ~is_first)):
            part = (samples[selected.to(samples.device)] for samples in (x, y))
            setattr(self, name, with_batch(getattr(self, name), *part))

    def compute(self) -> Float[Tensor, ""]:
        """Return the value over all samples seen, on all processes."""
        if not self.crossfit:
            return super().compute()
        halves = [metric_state.merged(half) for half in self._halves()]
        check_count(sum(map(metric_state.count, halves)), self.minimum_samples)
        total = metric_state.merged(halves)
        samples = metric_state.samples(total)
        if samples is not None:
            second = torch.arange(len(samples[0])) >= metric_state.count(halves[0])
            x, y = paired_samples(*samples, self.minimum_samples)
            return self.from_moments(halved_moments_of(self.prepare(x), self.prepare(y), second.long()))
        sums = metric_state.sums(total)
        check_variance(sums)
        return self.from_moments(sums | _first_half(metric_state.sums_of_part(halves[0], total)))

    def _halves(self) -> list[list[Tensor] | Tensor]:
        """Return the states of both halves that have samples: of several processes, one tensor each."""
        states = (cast(list[Tensor] | Tensor, state) for state in (self.packed, self.packed_second))
        return [state for state in states if len(state)]
