"""Moments: every sum follows its definition, about any offset, merged from any parts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dissimilarity.moments.metric_state import move_offset
from dissimilarity.moments.pair import Moments, add, centered, cross_moments, pair_moments, side_moments
from dissimilarity.moments.products import as_samples, find_outlier_rows, products, squared_norms


def draw(n: int, p: int, q: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=g, dtype=torch.float64) + 2 for d in (p, q))  # pyright: ignore


def by_definition(x: Tensor, y: Tensor) -> dict[str, np.ndarray | float]:
    """Compute the table of the module sample by sample."""
    sums: dict[str, np.ndarray | float] = {}
    for u, v in zip(x.numpy(), y.numpy(), strict=True):
        a, b = float(u @ u), float(v @ v)
        parts = {
            "n": 1.0, "x": u, "y": v, "xx": np.outer(u, u), "yy": np.outer(v, v), "xy": np.outer(u, v),
            "a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b, "xa": u * a, "xb": u * b, "ya": v * a, "yb": v * b,
            "eps_x": 2.0**-52, "eps_y": 2.0**-52,
        }  # fmt: skip
        sums = {key: part + sums.get(key, 0.0) for key, part in parts.items()}
    return sums


def assert_sums(moments: Moments, expected: dict[str, np.ndarray | float], tolerance: float = 1e-10) -> None:
    assert moments.keys() == expected.keys()
    for key, value in expected.items():
        assert moments[key].dtype == torch.float64
        np.testing.assert_allclose(moments[key].numpy(), value, rtol=tolerance, atol=tolerance, err_msg=key)


@settings(max_examples=20)
@given(n=st.integers(1, 12), p=st.integers(1, 5), q=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_sums_follow_their_definitions_about_any_offset(n: int, p: int, q: int, seed: int) -> None:
    x, y = draw(n, p, q, seed)
    offset_x, offset_y = draw(1, p, q, seed + 1)
    sums = pair_moments(x, y, offset_x[0], offset_y[0])
    assert_sums(sums, by_definition(x - offset_x, y - offset_y))
    assert_sums(move_offset(sums, offset_x[0], offset_y[0]), by_definition(x, y))
    assert_sums(move_offset(sums, -offset_x[0], 2 * offset_y[0]), by_definition(x - 2 * offset_x, y + offset_y))


def test_accumulations_with_different_offsets_merge_into_one_pass() -> None:
    x, y = draw(50, 4, 3)
    offset_x, offset_y = x[:20].mean(0), y[:20].mean(0)
    other_x, other_y = x[20:].mean(0), y[20:].mean(0)
    first = pair_moments(x[:20], y[:20], offset_x, offset_y)
    second = pair_moments(x[20:], y[20:], other_x, other_y)
    merged = add(first, move_offset(second, other_x - offset_x, other_y - offset_y))
    assert_sums(merged, by_definition(x - offset_x, y - offset_y))


def test_adding_nothing_changes_nothing() -> None:
    sums = pair_moments(*draw(5, 2, 3))
    assert_sums(add({}, sums), {key: value.numpy() for key, value in sums.items()})


def test_centered_sums_do_not_depend_on_the_offset() -> None:
    x, y = draw(30, 4, 3)
    deviations_x, deviations_y = (z - z.mean(0) for z in (x, y))
    expected = (deviations_x.T @ deviations_x, deviations_y.T @ deviations_y, deviations_x.T @ deviations_y)
    for offset in (0.0, 5.0):
        moments = centered(pair_moments(x, y, torch.full((4,), offset), torch.full((3,), -offset)))
        for value, expected_product in zip(moments, expected, strict=True):
            torch.testing.assert_close(value, expected_product)


def test_a_site_with_its_partners_side_by_side_has_the_sums_of_each_pair() -> None:
    x, y = draw(24, 4, 3)
    z, _ = draw(24, 5, 1, seed=9)
    x3, y3, z3 = (rows.unflatten(0, (3, 8)) for rows in (x, y, z))
    a, b, c = (squared_norms(rows) for rows in (x3, y3, z3))
    none = torch.zeros_like(a, dtype=torch.bool)
    parts = cross_moments([x3], a[..., None], [y3, z3], torch.stack([b, c], -1), none)
    moments = {(key, part): (total, per_unit) for key, _, part, total, per_unit in parts}
    for partner, rows in enumerate((y, z)):
        for number, part in ((None, slice(None)), *((g, slice(8 * g, 8 * g + 8)) for g in range(3))):
            sums = {key: total if number is None else per_unit[number] for key, (total, per_unit) in moments.items()}
            expected = by_definition(x[part], rows[part])
            np.testing.assert_allclose(sums["xy", partner], expected["xy"], rtol=1e-5)
            np.testing.assert_allclose(sums["ab", 0][0, partner], expected["ab"], rtol=1e-5)
            np.testing.assert_allclose(sums["xb", 0][:, partner], expected["xb"], rtol=1e-5)
            np.testing.assert_allclose(sums["ya", partner][:, 0], expected["ya"], rtol=1e-5)
    side, per_unit = side_moments(x3, a, none)
    for key in side:
        np.testing.assert_allclose(side[key], by_definition(x, x)[key], rtol=1e-12)
        np.testing.assert_allclose(per_unit[key].double().sum(0), side[key], rtol=1e-5)


def test_outlier_rows_are_multiplied_in_float64() -> None:
    x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    x[1, 5, 3] = 1e4
    outlier_rows = find_outlier_rows(squared_norms(x))
    assert outlier_rows.nonzero().tolist() == [[1, 5]]
    total, per_unit = products(x, x, outlier_rows)
    exact = torch.einsum("gnp,gnq->gpq", x.double(), x.double())
    assert (
        (total - exact.sum(0)).abs().max() < 1e-4 < (products(x, x, outlier_rows & False)[0] - exact.sum(0)).abs().max()
    )
    torch.testing.assert_close(per_unit.double(), exact, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_before_any_sum(dtype: torch.dtype) -> None:
    """In float16 the sum of squares would overflow at 65504, in bfloat16 a sum of ones would stop at 256."""
    x = torch.full((4096, 3), 30.0, dtype=dtype)
    x[::2] = -30.0
    sums = pair_moments(x, x)
    assert sums["a"].item() == 4096 * 3 * 900
    assert as_samples(x).dtype == torch.float32
    assert as_samples(x.double()).dtype == torch.float64


def test_activations_of_any_shape_become_samples() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(as_samples(x), x.flatten(0, 1))
    assert as_samples(torch.arange(5.0)).shape == (5, 1)
