"""Checks of tensor shapes at run time, for every function but those that are defined anew at each call."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks the types of its arguments and of its result.

    Functions inside others stay as they are: to prepare their checks takes a millisecond at each call of the outer one.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
