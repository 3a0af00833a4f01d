"""Every argument of every measure: a value that it cannot have is one message, which names the argument."""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from dissimilarity import functional
from dissimilarity.measures.catalog import measure_classes

pytestmark = pytest.mark.usefixtures("unchecked")

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = X + 0.3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
FUNCTIONS = [getattr(functional, name) for name in functional.__all__]
OF_ANY_KIND: list[Any] = [None, "x", math.nan, [1], torch.ones(2), object()]
ODD: dict[Any, list[Any]] = {
    bool: [0, 1],
    int: [True, 2.5, -1],
    float: [True, math.inf, -0.5, 0, 1 + 1j],
    str: [1, True],
}
OUTSIDE = {"k": 0, "batch": 3, "max_samples": 1, "variance": 1.0}
"""Numbers that are just outside."""


def settings(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and kinds of a measure's own arguments."""
    for name, entry in inspect.signature(function).parameters.items():
        if name not in ("x", "y", "xs", "ys") and not (name == "units" and function in FUNCTIONS):
            kind = str if get_origin(entry.annotation) is Literal else entry.annotation
            yield name, kind


def call(function: Callable[..., Any], **arguments: Any) -> Any:
    """Construct a measure, or evaluate one on samples."""
    names = inspect.signature(function).parameters
    sides = {"x": X, "y": Y, "xs": [X], "ys": [Y]} if function in FUNCTIONS else {}
    return function(**({name: side for name, side in sides.items() if name in names} | arguments))


CASES = [(function, *setting) for function in (*measure_classes(), *FUNCTIONS) for setting in settings(function)]


@pytest.mark.parametrize(("function", "name", "kind"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_value_that_no_argument_can_have(function: Callable[..., Any], name: str, kind: Any) -> None:
    for value in [*OF_ANY_KIND, *ODD[kind], OUTSIDE.get(name)]:
        with pytest.raises(ValueError, match=rf"^expected {name}\b.*, found "):
            call(function, **{name: value})


def test_all_measures_are_tested() -> None:
    assert len({function for function, _, _ in CASES}) > 30
    assert {kind for _, _, kind in CASES} == set(ODD)


@pytest.mark.parametrize(("function", "name", "kind"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_numbers_of_numpy_are_numbers(function: Callable[..., Any], name: str, kind: Any) -> None:
    values = {bool: [np.True_], int: [np.int64(16)], float: [np.float32(0.5)], str: []}
    for value in values[kind]:
        call(function, **{name: value})
    for word in get_args(inspect.signature(function).parameters[name].annotation):
        call(function, **{name: word})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_side_that_is_no_samples(function: Callable[..., Any]) -> None:
    first = next(iter(inspect.signature(function).parameters))
    for value in (None, "word", 3, X[0], X[None], X.long(), X * math.nan, object(), [["a"]], np.array([["a"]]), {}, []):
        with pytest.raises(ValueError, match="expected|must hold|NaN"):
            call(function, **{first: [value] if first == "xs" else value})
