"""Run-time checks of argument types and tensor shapes, for every function but those inside other functions."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped
_config = jaxtyping.config
_ONE_PATTERN = {bool, int, float, str, type(None)}


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
    signature = str(inspect.signature(thing))
    if quoted or "jaxtyping" in signature:
        return functools.wraps(thing)(_with_shapes(thing, values=quoted or "Literal[" in signature))

    @functools.cache
    def strict() -> Callable[..., Any]:
        return beartype(thing)

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (thing if _config.jaxtyping_disable else strict())(*args, **kwargs)

    return call


def _with_shapes(function: Callable[..., Any], values: bool) -> Callable[..., Any]:
    """Return a function that checks shapes whenever its arguments or its result have a pattern that is new.

    jaxtyping takes fifty times as long as beartype alone, and would take two fifths of the time of a small training.
    With `values`, strings among the arguments are part of the pattern, as they are of `Literal`.
    """
    passed: dict[Any, set[Any]] = {}  # patterns of results by those of arguments
    results: list[Any] = []

    @functools.cache
    def strict() -> Callable[..., Any]:
        return _jaxtyped(function, typechecker=beartype)

    @functools.cache
    def again() -> Callable[..., Any]:
        """Return what checks a result that is there already."""
        return _jaxtyped(functools.wraps(function)(lambda *_, **__: results.pop()), typechecker=beartype)

    def call(*args: Any, **kwargs: Any) -> Any:
        if _config.jaxtyping_disable:
            return function(*args, **kwargs)
        arguments: Any = (*map(_pattern, args), tuple(kwargs), *map(_pattern, kwargs.values()))
        if values:
            arguments = arguments, *(value for value in (*args, *kwargs.values()) if isinstance(value, str))
        seen = passed.get(arguments)
        if seen is None:
            result = strict()(*args, **kwargs)
            passed[arguments] = {_pattern(result)}
            return result
        result = function(*args, **kwargs)
        if (pattern := _pattern(result)) not in seen:
            results.append(result)
            again()(*args, **kwargs)
            seen.add(pattern)
        return result

    return call


def _pattern(value: Any) -> Any:
    """Return all of a value that a check can depend on: of a dict, whose first item alone is checked, the first."""
    kind = type(value)
    if kind is torch.Tensor or kind is np.ndarray:
        return kind, value.dtype, value.shape
    if kind in _ONE_PATTERN:
        return kind
    if isinstance(value, tuple):
        return kind, *map(_pattern, value)
    if isinstance(value, list):
        kinds = set(map(type, value))
        return kind, frozenset(kinds if kinds <= _ONE_PATTERN else map(_pattern, value))
    if isinstance(value, dict):
        return kind, *((type(key), _pattern(item)) for key, item in itertools.islice(value.items(), 1))
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return kind, value.dtype, value.shape
    return value if isinstance(value, type) else kind
