"""Error bars read stored samples once for all pairs and measures, and only those of the null in fast products."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dissimilarity import CCA, CKA, AngularCKA, LinearRegression, Procrustes, compare
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.moments import bilinear
from dissimilarity.moments.side import Side

SEQUENCES, LENGTH, WIDTH = 24, 16, 12


def activations(sites: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = SEQUENCES, LENGTH, WIDTH
    common = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    return {f"s{site}": (common + torch.randn(shape, generator=g).double()).to(dtype) for site in range(sites)}


def rows(dtype: torch.dtype, **options: Any) -> list[dict[str, Any]]:
    measures = [CKA(), AngularCKA(), Procrustes(), LinearRegression(), CCA()]
    return compare(activations(2, 1, dtype), activations(2, 2, dtype), measures=measures, **options).to_pylist()


@pytest.mark.parametrize("null", [False, True])
def test_chunks_are_read_as_often_for_many_pairs_as_for_one(null: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[set[str]] = []
    chunk = Side.chunk

    def counted(self: Side, acts: Any, *args: Any) -> Any:
        made.append(set(acts))
        return chunk(self, acts, *args)

    monkeypatch.setattr(Side, "chunk", counted)
    numbers = []
    for sites, measures in ((1, [CKA()]), (3, [CKA(), AngularCKA(), Procrustes(), CCA()])):
        made.clear()
        compare(activations(sites, 1), activations(sites, 2), measures=measures, null=null)
        numbers.append(len(made))
    assert numbers[0] == numbers[1] > 0


def test_fast_products_serve_the_error_of_the_null_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, single = rows(torch.float64), rows(torch.float32)
    monkeypatch.setattr(bilinear, "LARGE", 1)
    monkeypatch.setattr(bilinear, "fast_dtype", lambda device: torch.bfloat16)
    fast = rows(torch.float32)
    for row, same, expected in zip(fast, single, exact, strict=True):
        for column in ("value", "stderr", "null", "influence"):
            assert row[column] == same[column]
        assert row["calibrated_stderr"] != same["calibrated_stderr"]
        assert row["calibrated_stderr"] == pytest.approx(expected["calibrated_stderr"], rel=2e-2)
        assert row["stderr"] == pytest.approx(expected["stderr"], rel=1e-4)


def test_slopes_that_do_not_fit_in_memory_together_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    together = rows(torch.float64)
    monkeypatch.setattr("dissimilarity.comparison.estimates.SLOPES", WIDTH**2)
    for row, expected in zip(rows(torch.float64), together, strict=True):
        for column in ("value", "stderr", "calibrated_stderr"):
            assert row[column] == pytest.approx(expected[column], rel=1e-12)


def test_a_measure_that_fails_in_the_second_pass_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("a fault in the second pass")

    monkeypatch.setattr("dissimilarity.measures.numerics.leverage.Leverage.spread", broken)
    for row in rows(torch.float64):
        assert math.isnan(row["value"]) == (row["measure"] == "cca")
        assert ("a fault in the second pass" in row["note"]) == (row["measure"] == "cca")


def test_activations_are_stored_for_error_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelActivations, "of_all", lambda *args: pytest.fail("no second pass is due"))
    compare(activations(1, 1), activations(1, 2), measures=[CKA()], n_units=1)
