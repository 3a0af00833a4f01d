"""Run-time checks of tensor shapes, for every function except those defined inside another function."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks the types of its arguments and of its result.

    Functions inside others are not checked: preparing a check takes a millisecond, at every call of the outer function.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
