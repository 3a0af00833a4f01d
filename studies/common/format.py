"""Numbers as the summaries of studies write them."""

import math
from typing import Protocol


class Bounds(Protocol):
    """An interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class Interval(Bounds, Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float: ...


def interval(found: Interval) -> str:
    """`+0.123 [+0.1, +0.2]`."""
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def span(found: Bounds) -> str:
    """The interval in words."""
    return f"95 % interval {number(found.low)} to {number(found.high)}"


def number(value: float, digits: int = 3, sign: bool = True) -> str:
    """A number with its sign, or a dash for none."""
    if not math.isfinite(value):
        return "–"
    return f"{value + 0.0:+.{digits}f}" if sign else f"{value:.{digits}f}"
