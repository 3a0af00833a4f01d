"""Arguments as users pass them: a value of another kind than expected is one message, which says what is accepted."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int = 1, of: str = "a whole number") -> int:
    """Return a whole number, also one of numpy.

    Args:
        name: the argument.
        value: its value.
        least: the smallest number that is accepted.
        of: what the number counts, for the message.

    Raises:
        ValueError: something else, or less.

    Examples:
        >>> whole("every", np.int64(5))
        5
        >>> whole("every", True)
        Traceback (most recent call last):
        ValueError: expected every >= 1, a whole number, found True
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"expected {name} >= {least}, {of}, found {shown(value)}")
    return int(value)


def number(name: str, value: Any, above: float = 0.0, below: float = math.inf, hint: str = "") -> float:
    """Return a finite number between two others, also one of numpy.

    Args:
        name: the argument.
        value: its value.
        above: a bound that is too small.
        below: a bound that is too large.
        hint: what to do instead, for the message.

    Raises:
        ValueError: something else, or outside of the bounds.

    Examples:
        >>> number("ridge", float("nan"))
        Traceback (most recent call last):
        ValueError: expected ridge above 0, a number, found nan
    """
    if not is_real(value) or not above < value < below:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"expected {name} above {above:g}{bound}, a number, found {shown(value)}{hint and '; '}{hint}")
    return float(value)


def is_real(value: Any) -> bool:
    """Return whether a value is a number, also one of numpy, and no flag.

    Examples:
        >>> is_real(np.float32(0.05)), is_real(True), is_real("1")
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def flag(name: str, value: Any) -> bool:
    """Return True or False, also one of numpy.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"expected {name} True or False, found {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of several words.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"expected {name} {', '.join(choices[:-1])} or {choices[-1]}, found {shown(value)}")
    return value


def mapping(name: str, value: Any, example: str) -> Mapping[Any, Any]:
    """Return a mapping.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"expected {name} as a mapping such as {example}, found {shown(value)}")
    return value


def function(name: str, value: Any, example: str) -> Callable[..., Any]:
    """Return a function.

    Raises:
        ValueError: something else.
    """
    if not callable(value):
        raise ValueError(f"expected {name} as a function such as {example}, found {shown(value)}")
    return value


def as_folder(value: Any) -> Path:
    """Return a folder, which need not exist.

    Raises:
        ValueError: no path, or a file is in its place.

    Examples:
        >>> as_folder("tracked").name
        'tracked'
    """
    if not isinstance(value, (str, PathLike)) or not str(value):
        raise ValueError(f"expected folder as a path such as 'tracked', found {shown(value)}")
    path = Path(value)
    existing = next((part for part in (path, *path.parents) if part.exists()), path)
    if existing.is_file():
        raise ValueError(f"folder {path}: {existing} is a file; pass the path of a folder")
    return path


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, classes by their name, and tensors and modules by their type.

    Examples:
        >>> shown([1, 2]), shown(bool), shown(np.zeros(3))
        ('[1, 2]', 'the class bool', 'a ndarray')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value) if isinstance(value, (str, int, float, list, tuple, dict, type(None), np.generic)) else ""
    return text if 0 < len(text) <= 80 else f"a {type(value).__name__}"
