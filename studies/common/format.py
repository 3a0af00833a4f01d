"""Formatting of numbers and tables in the summaries of studies."""

import math
import re
from collections.abc import Sequence
from typing import Protocol

from studies.common.jackknife import no_interval

DASH = "–"
"""Stands for a value that does not exist."""


class Bounds(Protocol):
    """An interval over models."""

    @property
    def models(self) -> int:
        """Return the number of models on the smallest side."""
        ...

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

    Examples:
        >>> number(0.25), number(0.25, 1, sign=False), number(float("nan"))
        ('+0.250', '0.2', '–')
    """
    if not math.isfinite(value):
        return DASH
    return f"{value + 0.0:+.{digits}f}" if sign else f"{value:.{digits}f}"


def p_value(p: float, digits: int = 3) -> str:
    """Return `p = 0.017`, or a bound below the smallest number with these digits.

    Examples:
        >>> p_value(0.0171), p_value(2e-5), p_value(float("nan"))
        ('p = 0.017', 'p < 0.001', 'p = –')
    """
    smallest = 10.0**-digits
    return f"p < {smallest:.{digits}f}" if p < smallest else f"p = {number(p, digits, sign=False)}"


def plus_minus(mean: float, half: float, form: str = ".3f") -> str:
    """Return `1.234 ± 0.100`, or the mean alone without a finite half-width.

    Examples:
        >>> plus_minus(1.0, 0.1), plus_minus(1.0, float("nan"))
        ('1.000 ± 0.100', '1.000')
    """
    return f"{mean:{form}} ± {half:{form}}" if math.isfinite(half) else f"{mean:{form}}"


def interval(estimate: Estimate, digits: int = 3, sign: bool = True) -> str:
    """Return `+0.123 [+0.100, +0.200]`, or the mean alone and why it has no interval."""
    mean = number(estimate.mean, digits, sign)
    if not math.isfinite(estimate.low):
        return f"{mean} ({no_interval(estimate.models)})" if math.isfinite(estimate.mean) else mean
    return f"{mean} [{number(estimate.low, digits, sign)}, {number(estimate.high, digits, sign)}]"


def interval_in_words(bounds: Bounds) -> str:
    """Return the interval as part of a sentence, or why there is none."""
    if not math.isfinite(bounds.low):
        return no_interval(bounds.models)
    return f"95% interval {number(bounds.low)} to {number(bounds.high)}"


def listed(words: Sequence[str]) -> str:
    """Join words with commas and a final "and".

    Examples:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def as_code(text: str) -> str:
    r"""Return a text as code in a Markdown table, where nothing in it is markup.

    Examples:
        >>> as_code("a *b* | c"), as_code("`x`")
        ('`a *b* \\| c`', '`` `x` ``')
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def table_head(*columns: str) -> list[str]:
    """Return the two lines that open a Markdown table.

    Examples:
        >>> table_head("a", "b")
        ['| a | b |', '| --- | --- |']
    """
    return [table_row(*columns), table_row(*["---"] * len(columns))]


def table_row(*cells: str) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
