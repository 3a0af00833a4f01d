"""Sums over halves of the units, for measures that fit a map to one half of the text and score it on the other.

Alternate units form the halves: units 0, 2, 4, ... the first, units 1, 3, 5, ... the second. So they depend on the cut
of the probe set alone, not on batches or processes. ``Moments`` hold the sums over all samples, and those over the
first half under the same names with ``HALF`` at the end. The second half is the difference.
"""

from collections.abc import Mapping

from jaxtyping import Bool, Int
from torch import Tensor

HALF = "_half"
"""The end of the name of a sum over the first half."""

SUMS_OF_HALVES = ("n", "x", "xx", "a", "eps_x", "xy")
"""The sums that are kept of the first half, under first-side names."""


def in_first_half(unit: Int[Tensor, " units"]) -> Bool[Tensor, " units"]:
    """Return which units, by their numbers, are in the first half."""
    return unit % 2 == 0


def as_first_half(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return sums over the first half under their names among all sums."""
    return {key + HALF: value for key, value in sums.items()}


def halves_of(m: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the sums over the first half and over the second."""
    first = {key.removesuffix(HALF): value for key, value in m.items() if key.endswith(HALF)}
    return first, {key: m[key] - value for key, value in first.items()}
