"""Where a value stands between its null and the value of identical models, with its error; p values of rearrangements.

With the value v, the null m (a mean over rearrangements) and the value i of identical models, the calibrated value is
c = (v - m) / (i - m). Influences of units on v and on m are on one probe set, so by the delta method those on c are

    U_c = U_v / (i - m) + (v - i) / (i - m)^2 * U_m,

which holds what v and m have in common. U_m is that of a single rearrangement and so includes the spread between
rearrangements, of which a mean over several has less: then the error is somewhat too large.

A ratio says nothing where its denominator may be zero (Fieller 1954): c is not defined where the 95% interval of the
null holds the value of identical models, or is not known. So where the two are the same in truth, 5% have a value
all the same.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dissimilarity.inference.jackknife import half_width, stderr_of_influence

ROUNDING = 1e-6
"""Distance from the value of identical models that rounding explains."""

TIES = 1e-6
"""Relative difference of values that rounding explains, of float32 samples too."""


PER_BROKEN = 2.5
"""Error of the calibrated value of unrelated models per share of samples that the null takes out of their sequences.

In simulations, values were too high by up to four times the share for neighbors, and by less for other measures.
"""


@dataclass(frozen=True)
class Calibration:
    """A calibrated value and its standard error; both NaN where it is not defined."""

    value: float
    stderr: float


UNKNOWN = Calibration(math.nan, math.nan)
"""The one that is not defined."""


def calibrate(
    value: float,
    nulls: Float[Tensor, " nulls"],
    identical: float,
    influence: Float[Tensor, " units"],
    null_influence: Float[Tensor, " units"],
    checked: bool = True,
    broken: float = 0.0,
) -> Calibration | None:
    """Return the calibrated value; None where null and identical models cannot be told apart.

    Args:
        value: the value.
        nulls: its null in each rearrangement.
        identical: the value of identical models.
        influence: influences of the units on the value.
        null_influence: influences of the units on the null of one rearrangement within units.
        checked: whether there must be an interval of the null; False where no error bars were asked for.
        broken: share of samples that the null takes out of their sequences, which makes it too low.

    Examples:
        >>> import torch
        >>> unit = torch.tensor([0.01, -0.01, 0.02, -0.02])
        >>> result = calibrate(0.6, torch.tensor([0.2]), 1.0, unit, unit / 2)
        >>> print(f"{result.value:.2f} {result.stderr:.4f}")
        0.50 0.0342
        >>> print(calibrate(1.0, torch.tensor([0.99]), 1.0, unit, unit))
        None
    """
    null = nulls.mean().item()
    span = identical - null
    if math.isnan(value) or math.isnan(null):
        return UNKNOWN
    error = stderr_of_influence(null_influence).item()
    if abs(span) <= ROUNDING or (checked and not abs(span) > half_width(error, len(null_influence))):
        return None
    slope = (value - identical) / span**2
    stderr = stderr_of_influence(influence / span + slope * null_influence).item()
    calibrated = (value - null) / span
    return Calibration(calibrated, math.hypot(stderr, PER_BROKEN * broken * (1 - calibrated)))


def p_value(statistic: float, null: Float[Tensor, " nulls"]) -> float:
    """Return (1 + number of nulls at or above the statistic) / (K + 1), the p value of a permutation test.

    It is never 0, and NaN for a single null, which can show nothing. Values that differ by rounding are equal.

    Examples:
        >>> import torch
        >>> p_value(0.7, torch.tensor([0.1, 0.2, 0.3, 0.7]))
        0.4
    """
    if math.isnan(statistic) or len(null) < 2 or bool(null.isnan().any()):
        return math.nan
    return (1 + int((null >= statistic - TIES * abs(statistic)).sum())) / (len(null) + 1)
