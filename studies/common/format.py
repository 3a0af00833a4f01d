"""Formatting of numbers and tables in the summaries of studies."""

import math
from collections.abc import Sequence
from typing import Protocol

DASH = "–"
"""Stands for a value that does not exist."""


class Bounds(Protocol):
    """An interval."""

    @property
    def low(self) -> float:
        """Return the lower end."""
        ...

    @property
    def high(self) -> float:
        """Return the upper end."""
        ...


class Estimate(Bounds, Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float:
        """Return the mean."""
        ...


def number(value: float, digits: int = 3, sign: bool = True) -> str:
    """Return a number with its sign, or a dash if it is not finite.

    Example:
        >>> number(0.25), number(0.25, 1, sign=False), number(float("nan"))
        ('+0.250', '0.2', '–')
    """
    if not math.isfinite(value):
        return DASH
    return f"{value + 0.0:+.{digits}f}" if sign else f"{value:.{digits}f}"


def interval(estimate: Estimate, digits: int = 3, sign: bool = True) -> str:
    """Return `+0.123 [+0.100, +0.200]`, or the mean alone if it has no interval."""
    mean = number(estimate.mean, digits, sign)
    if not math.isfinite(estimate.low):
        return mean
    return f"{mean} [{number(estimate.low, digits, sign)}, {number(estimate.high, digits, sign)}]"


def interval_in_words(bounds: Bounds) -> str:
    """Return the interval as part of a sentence."""
    return f"95 % interval {number(bounds.low)} to {number(bounds.high)}"


def listed(words: Sequence[str]) -> str:
    """Join words with commas and a final "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def table_head(*columns: str) -> list[str]:
    """Return the two lines that open a Markdown table.

    Example:
        >>> table_head("a", "b")
        ['| a | b |', '| --- | --- |']
    """
    return [table_row(*columns), table_row(*["---"] * len(columns))]


def table_row(*cells: str) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
