"""Run-time checks of argument types and tensor shapes, for every function but those inside other functions."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped


def install(packages: list[str]) -> None:
    """Check every function and dataclass of these packages that is imported from now on."""
    jaxtyping.install_import_hook(packages, None)
    # what the hook decorates with, looked up at each definition
    jaxtyping.jaxtyped = lambda *, typechecker: checked  # pyright: ignore[reportAttributeAccessIssue]


def checked(thing: Any) -> Any:
    """Return a function or class that checks the types of its arguments and of its result.

    Functions inside others are not checked: preparing a check takes a millisecond, at every call of the outer function.
    For the same reason a check is prepared when it is first needed.
    """
    if isinstance(thing, type):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__)
        return thing
    if "<locals>" in thing.__qualname__:
        return thing
    # beartype alone would import what a quoted name stands for
    quoted = any(isinstance(hint, str) for hint in inspect.get_annotations(thing).values())
    has_shapes = quoted or "jaxtyping" in str(inspect.signature(thing))

    @functools.cache
    def strict() -> Callable[..., Any]:
        return _with_shapes(thing) if has_shapes else beartype(thing)

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (thing if jaxtyping.config.jaxtyping_disable else strict())(*args, **kwargs)

    return call


def _with_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks shapes whenever its arguments or its result have a pattern that is new.

    jaxtyping takes fifty times as long as beartype alone, and would take two fifths of the time of a small training.
    """
    strict = _jaxtyped(function, typechecker=beartype)
    passed: dict[Any, set[Any]] = {}  # patterns of results by those of arguments
    results: list[Any] = []

    @functools.cache
    def again() -> Callable[..., Any]:
        """Return what checks a result that is there already."""
        return _jaxtyped(functools.wraps(function)(lambda *_, **__: results.pop()), typechecker=beartype)

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = _pattern(args), _pattern(kwargs)
        if arguments not in passed:
            result = strict(*args, **kwargs)
            passed[arguments] = {_pattern(result)}
            return result
        result = function(*args, **kwargs)
        if (pattern := _pattern(result)) not in passed[arguments]:
            results.append(result)
            again()(*args, **kwargs)
            passed[arguments].add(pattern)
        return result

    return call


def _pattern(value: Any) -> Any:
    """Return all of a value that a check can depend on."""
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, value.shape
    if isinstance(value, (list, tuple)):
        return type(value), *map(_pattern, value)
    if isinstance(value, dict):
        return type(value), *((type(key), _pattern(item)) for key, item in value.items())
    if isinstance(value, (str, type)):
        return value
    return (type(value), value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)
