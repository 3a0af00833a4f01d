"""Conversion and checks of the input of measures, with messages that say what to do."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dissimilarity.moments.finite import count_not_finite
from dissimilarity.moments.products import as_samples
from dissimilarity.probe.arguments import shown

ArrayLike = Tensor | np.ndarray | Sequence[Any]
"""Samples as a tensor, a numpy array or a nested list."""

Units = Literal["sequence", "sample"]
"""What is independent of the rest: whole sequences, wherever they are known, or single samples."""


def units_suffix(debiased: bool, units: Units) -> str:
    """Return the end of a label: the biased estimator does not depend on the units."""
    return "_biased" if not debiased else "_sample" if units == "sample" else ""


def unit_numbers(units: ArrayLike | None, n: int) -> Tensor | None:
    """Return the number of the unit of each sample, from 0; None where each sample is its own.

    Raises:
        ValueError: not one unit per sample, or no whole numbers or names.
    """
    if units is None:
        return None
    names = units.detach().cpu().numpy() if isinstance(units, Tensor) else np.asarray(units)
    if names.shape != (n,):
        raise ValueError(
            f"expected units of shape ({n},), the sequence of each sample, found {names.shape}; repeat the number of a "
            "sequence for each of its samples"
        )
    if names.dtype.kind == "f" and not (np.isfinite(names) & (names == np.round(names))).all():
        raise ValueError("expected the sequence of each sample as units, whole numbers or names, found others")
    numbers = np.unique(names, return_inverse=True)[1]
    return None if numbers.max() == n - 1 else torch.from_numpy(numbers)


def as_tensors(*arrays: ArrayLike) -> tuple[Tensor, ...]:
    """Return tensors as they are, and numpy arrays and nested lists as tensors of the same precision.

    Raises:
        ValueError: something else.
    """
    return tuple(array if isinstance(array, Tensor) else _as_tensor(array) for array in arrays)


def _as_tensor(array: Any) -> Tensor:
    try:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected samples as a tensor, an array or a nested list of numbers, found {shown(array)}"
        ) from error


def paired_samples(x: ArrayLike, y: ArrayLike, minimum: int) -> tuple[Tensor, Tensor]:
    """Return both sides as float32 or float64 tensors that a measure can compare.

    Args:
        x: samples in one representation, (n, p).
        y: the same samples in the other, (n, q).
        minimum: smallest number of samples that the measure accepts.

    Raises:
        ValueError: x and y cannot be compared; see ``check_pair``.
    """
    x, y = as_tensors(x, y)
    check_pair(x, y, minimum)
    return as_samples(x), as_samples(y)


def check_samples(x: Tensor, y: Tensor) -> None:
    """Check that x (n, p) and y (n, q) can be the same samples.

    Raises:
        ValueError: other shapes, numbers of samples or types, or values that are not finite.
    """
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"expected x of shape (n, p) and y of shape (n, q), found {tuple(x.shape)} and {tuple(y.shape)}; "
            "flatten (batch, pos, d) to (batch * pos, d)"
        )
    if len(x) != len(y):
        raise ValueError(
            f"expected the same samples in x and y, found {len(x)} and {len(y)} samples; compare both on one probe set"
        )
    for samples, name in ((x, "x"), (y, "y")):
        if not samples.is_floating_point():
            raise ValueError(
                f"{name} must hold floating-point activations, found {samples.dtype}: cast it, for example with "
                ".float()"
            )
        bad = count_not_finite(samples)
        if bad:
            raise ValueError(
                f"{bad} of {samples.numel()} values of {name} are NaN or infinite; look for overflow or divergence "
                "there"
            )


def check_pair(x: Tensor, y: Tensor, minimum: int) -> None:
    """Check that x (n, p) and y (n, q) can be compared.

    Raises:
        ValueError: as for ``check_samples``, too few samples, or samples that are all equal.
    """
    check_samples(x, y)
    check_count(len(x), minimum)
    for samples, name in ((x, "x"), (y, "y")):
        # Three samples nearly always decide this and save comparing all of them.
        probed = samples[:: max(1, len(samples) // 2)]
        if bool((probed == samples[:1]).all()) and bool((samples == samples[:1]).all()):
            raise no_variance(name)


def check_count(have: int, need: int) -> None:
    """Raise ValueError if there are too few samples."""
    if have < need:
        raise ValueError(f"too few samples: have {have}, the measure needs at least {need}; pass more samples")


def check_widths(expected: tuple[int, int], x: Tensor, y: Tensor) -> None:
    """Raise ValueError if a batch has different widths from those before it."""
    if (x.shape[1], y.shape[1]) != expected:
        raise ValueError(
            f"expected batches of widths {expected[0]} and {expected[1]} like the first one, found {x.shape[1]} and "
            f"{y.shape[1]}; reset() the measure before another pair of representations"
        )


def no_variance(name: str) -> ValueError:
    """Return the error for samples that are all the same."""
    return ValueError(f"zero variance: all samples of {name} are equal, so there is nothing to compare")
