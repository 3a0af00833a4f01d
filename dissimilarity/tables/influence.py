"""How tables store influences: one number per unit, short enough that a row stays a row."""

from collections.abc import Iterable

import pyarrow as pa

INFLUENCE = pa.list_(pa.field("element", pa.float32()))
"""Type of the column `influence`."""

SMALLEST, LARGEST = 1.2e-38, 3.4e38
"""Between these, a float32 holds 6 decimal digits exactly."""


def short(influence: Iterable[float]) -> list[float]:
    """Return influences to 6 digits, which survive float32 and JSON alike; none unless all of them are finite.

    Examples:
        >>> short([0.123456789, -2.5, 1e-300]), short([0.5, float("nan")])
        ([0.123457, -2.5, 0.0], [])
    """
    numbers = [float(f"{number:.6g}") for number in influence]
    if not all(abs(number) <= LARGEST for number in numbers):
        return []
    return [number if abs(number) >= SMALLEST else 0.0 for number in numbers]
