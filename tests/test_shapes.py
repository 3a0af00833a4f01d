"""The checks of shapes that all tests run under catch a wrong shape, however often a function was called before."""

from typing import Any, Literal

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from dissimilarity.measures.cka import cka_from_moments
from tests.helpers.shapes import checked

N, D = torch.zeros(3, 2), torch.zeros(4, 2)


def gram(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], keep: list[int]) -> Float[Tensor, "d e"]:
    return (x.T @ y)[[row for row in keep if row < 7]]


def rows(sites: dict[str, Float[Tensor, "n d"]], place: Literal["first", "last"]) -> list[Float[Tensor, " d"]]:
    return [site[0] for site in sites.values()]


def length(values: list[int], word: str = "") -> int:
    return word or len(values)  # pyright: ignore[reportReturnType]


def test_a_new_shape_of_an_argument_is_checked_at_a_later_call() -> None:
    function = checked(gram)
    for _ in range(3):
        assert function(N, N, [0, 1]).shape == (2, 2)
    with pytest.raises(TypeCheckError, match="parameters"):
        function(N, D, [0, 1])
    with pytest.raises(TypeCheckError, match="parameters"):
        function(N, y=N, keep="01")


def test_a_new_shape_of_the_result_is_checked_at_a_later_call() -> None:
    function = checked(gram)
    for _ in range(3):
        assert function(N, N, [0, 1]).shape == (2, 2)
    # the pattern of a list is that of its items' types, so these arguments are known
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="return value"):
            function(N, N, [0, 7])


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": {"a": torch.zeros(3)}},
        {"sites": {"a": torch.zeros(3, 2, dtype=torch.int64)}},
        {"sites": {0: N}},
        {"sites": [N]},
        {"place": "middle"},
    ],
)
def test_what_is_in_dicts_and_lists_and_values_of_literals_are_checked_at_a_later_call(wrong: dict[str, Any]) -> None:
    function = checked(rows)
    right: dict[str, Any] = {"sites": {"a": N, "b": D}, "place": "first"}
    for _ in range(2):
        assert len(function(**right)) == 2
    for _ in range(2):
        with pytest.raises(TypeCheckError):
            function(**{**right, **wrong})


def test_arguments_are_told_apart_by_their_names() -> None:
    function = checked(gram)
    assert function(x=N, y=N, keep=[0, 1]).shape == (2, 2)
    with pytest.raises(TypeCheckError, match="parameters"):
        function(x=N, keep=N, y=[0, 1])


def test_types_are_checked_where_there_are_no_shapes(request: pytest.FixtureRequest) -> None:
    function = checked(length)
    assert function([1]) == 1
    with pytest.raises(BeartypeCallHintParamViolation):
        function("one")
    request.getfixturevalue("unchecked")
    assert function("one") == 3


def test_a_quoted_name_is_not_looked_up() -> None:
    def quoted(count: int, other: "Unknown") -> int:  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        return count

    quoted.__qualname__ = "quoted"
    assert checked(quoted)(1, "anything") == 1
    with pytest.raises(TypeCheckError):
        checked(quoted)("one", "anything")


def test_the_project_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        cka_from_moments("sums", True)  # pyright: ignore[reportArgumentType]
