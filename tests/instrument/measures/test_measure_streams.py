"""Every measure as a torchmetrics.Metric: batches, merging, copies, precision, and what it rejects."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dissimilarity.measures.base.sample_measure import SampleMeasure
from tests.helpers.found_measures import (
    SETTINGS,
    each_representation,
    each_setting,
    enough,
    function_of,
    make,
    related,
    updated,
    views,
)


def parts_of(measure: Any) -> list[Tensor]:
    """Return the tensors of a metric's state."""
    values = measure.metric_state.values()
    return [part for value in values for part in (value if isinstance(value, list) else [value])]


def state_size(measure: Any) -> int:
    return sum(part.numel() for part in parts_of(measure))


@each_setting
@settings(max_examples=5)
@given(cuts=st.lists(st.integers(1, 79), max_size=6, unique=True))
def test_class_and_function_agree_for_any_batches(setting: str, cuts: list[int]) -> None:
    x, y = views(setting, 80)
    value = updated(make(setting), x, y, *sorted(cuts)).compute()
    assert value.item() == pytest.approx(function_of(setting)(x, y).item(), abs=1e-10)


@each_setting
def test_one_row_at_a_time_and_batches_without_variance(setting: str) -> None:
    x, y = views(setting, 30)
    x[5:9] = x[5]
    y[5:9] = y[5]
    expected = function_of(setting)(x, y).item()
    assert updated(make(setting), x, y, *range(1, 30)).compute().item() == pytest.approx(expected, abs=1e-10)
    assert updated(make(setting), x, y, 5, 9).compute().item() == pytest.approx(expected, abs=1e-10)


@each_setting
def test_reset_forgets(setting: str) -> None:
    x, y = views(setting, 80)
    measure = updated(make(setting), *views(setting, 40, 3, 4, seed=9), 10)
    measure.reset()
    assert updated(measure, x, y, 30).compute() == updated(make(setting), x, y, 30).compute()


@each_setting
def test_forward_gives_the_batch_and_continues_the_total(setting: str) -> None:
    x, y = views(setting, 120)
    measure, function = make(setting), function_of(setting)
    for a, b in zip(x.split(40), y.split(40), strict=True):
        assert measure(a, b).item() == pytest.approx(function(a, b).item(), abs=1e-10)
    assert measure.compute().item() == pytest.approx(function(x, y).item(), abs=1e-10)
    assert state_size(measure) == state_size(updated(make(setting), x, y, 40, 80))


@each_setting
def test_clones_and_pickles_continue_alone(setting: str) -> None:
    x, y = views(setting, 80)
    half = updated(make(setting), x[:40], y[:40])
    before = half.compute().item()
    for copy in (half.clone(), pickle.loads(pickle.dumps(half))):
        assert updated(copy, x[40:], y[40:]).compute().item() == pytest.approx(function_of(setting)(x, y).item())
        assert copy.label == half.label
    assert half.compute().item() == before


@each_setting
def test_merging_states_is_seeing_all_samples(setting: str) -> None:
    x, y = views(setting, 80)
    first, second = updated(make(setting), x[:30] + 5, y[:30], 10), updated(make(setting), x[30:], y[30:] - 3, 50)
    if first.full_state_update:
        with pytest.raises(RuntimeError, match="merge_state"):
            first.merge_state(second)
        return
    first.merge_state(second)
    expected = function_of(setting)(torch.cat([x[:30] + 5, x[30:]]), torch.cat([y[:30], y[30:] - 3]))
    assert first.compute().item() == pytest.approx(expected.item(), abs=1e-10)


@each_setting
def test_a_long_stream_keeps_a_bounded_state(setting: str) -> None:
    measure = make(setting)
    sizes = []
    for seed in range(12):
        measure.update(*views(setting, 512, 4, 3, seed))
        sizes.append(state_size(measure))
    assert sizes[-1] == sizes[3]


SAMPLED = [name for name in SETTINGS if isinstance(make(name), SampleMeasure) and make(name).full_state_update]
"""Measures that keep some samples of a stream, and not sums over all."""


@pytest.mark.parametrize("setting", SAMPLED)
def test_sampling_depends_on_place_and_seed_alone(setting: str) -> None:
    x, y = related(400)

    def few(seed: int = 0) -> Any:
        return make(setting, max_samples=50, seed=seed)

    value = updated(few(), x, y).compute()
    assert updated(few(), x, y, 1, 7, 250).compute() == value
    assert updated(few(seed=1), x, y).compute() != value
    measure = few()
    for a, b in zip(x.split(100), y.split(100), strict=True):
        measure(a, b)
    assert measure.compute() == value


@each_setting
def test_training_precision_does_not_touch_the_value(setting: str) -> None:
    """Autocast and fast products are for training; the measure keeps true float32 and restores what was set."""
    # Each half of a cross-fitted measure has more samples than both sides have dimensions, so directions are unique.
    x, y = (z.float() for z in related(enough(setting, 200), 64, 64))
    expected = function_of(setting)(x, y)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert function_of(setting)(x, y) == expected
            value = updated(make(setting), x, y).compute()
            assert value == pytest.approx(expected.item(), abs=1e-6) if make(setting).crossfit else value == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@each_setting
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_scale_gives_the_value_or_an_error(setting: str, dtype: torch.dtype) -> None:
    """What diverges is still finite for a while; products of float32 overflow or vanish long before."""
    x, y = (z.to(dtype) for z in views(setting, 100))
    expected = function_of(setting)(x, y).item()
    for exponent in (-120, -90, -60, -30, 30, 45, 60, 90, 120):
        scaled = x * 2.0**exponent
        try:
            value = function_of(setting)(scaled, y).item()
            if "isotropic_scaling" in make(setting).invariant_to:
                assert value == pytest.approx(expected, abs=1e-6)
            assert math.isfinite(value)
        except ValueError as error:
            assert "too large or too small" in str(error) and abs(exponent) > 30


@each_setting
@pytest.mark.parametrize("scale", [1e60, 1e75, 7e75, 1e76, 2e76, 1e-60, 1e-75, 1e-76])
def test_batches_whose_joint_sums_leave_float64_give_the_value_or_an_error(setting: str, scale: float) -> None:
    x, y = views(setting, 120)
    expected = function_of(setting)(x, y).item()
    try:
        value = updated(make(setting), scale * x, scale * y, *range(20, 120, 20)).compute().item()
        assert value == pytest.approx(expected, abs=1e-8) or "isotropic_scaling" not in make(setting).invariant_to
        assert math.isfinite(value)
    except ValueError as error:
        assert "too large or too small" in str(error) and not 1e-70 < scale < 1e70


@each_setting
def test_no_graph_is_kept_of_activations_with_gradients(setting: str) -> None:
    x, y = (z.requires_grad_() for z in views(setting, 80))
    measure = updated(make(setting), x, y, 40)
    assert not measure.compute().requires_grad
    assert not any(part.requires_grad for part in parts_of(measure))


@each_setting
def test_inference_mode_changes_nothing(setting: str) -> None:
    x, y = views(setting, 80)
    with torch.inference_mode():
        inside = updated(make(setting), x[:40], y[:40])
        value = updated(make(setting), x, y, 40).compute()
    assert updated(inside, x[40:], y[40:]).compute() == value == updated(make(setting), x, y, 40).compute()


BAD: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = {
    "different samples": (lambda x, y: (x, y[1:]), "60 and 59 rows.*same|same samples.*60 and 59"),
    "three dimensions": (lambda x, y: (x[None], y), r"\(n, p\).*found \(1, 60, 7\).*flatten"),
    "one dimension": (lambda x, y: (x, y[:, 0]), r"\(n, q\), found .*\(60,\)"),
    "integers": (lambda x, y: (x.long(), y), "x must hold floating-point.*int64.*float"),
    "not a number": (
        lambda x, y: (x, y.clone().index_fill_(0, torch.tensor([3]), float("nan"))),
        "{q} of {all_y} .*y .*NaN",
    ),
    "infinite": (lambda x, y: (x.clone().index_fill_(1, torch.tensor([0]), float("inf")), y), "60 of {all_x} .*x "),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", BAD)
@each_setting
def test_inputs_that_cannot_be_compared_are_rejected_with_the_reason(setting: str, bad: str) -> None:
    spoil, message = BAD[bad]
    x, y = views(setting)
    message = message.replace("{q}", str(y.shape[1])).replace("{all_x}", str(x.numel()))
    message = message.replace("{all_y}", str(y.numel()))
    x, y = spoil(x, y)
    with pytest.raises(ValueError, match=message):
        function_of(setting)(x, y)
    with pytest.raises(ValueError, match=message):
        updated(make(setting), x, y).compute()


@each_representation
def test_rows_that_are_all_equal_are_rejected(setting: str) -> None:
    x, y = views(setting)
    with pytest.raises(ValueError, match="zero variance.* y "):
        function_of(setting)(x, y[:1].expand(60, -1))
    with pytest.raises(ValueError, match="zero variance.* y "):
        updated(make(setting), x, y[:1].expand(60, -1)).compute()


@each_representation
def test_constant_rows_are_found_whatever_the_rounding_of_their_mean(setting: str) -> None:
    x, y = views(setting, 70)
    x = x[:1].expand(70, -1) * 0.1
    with pytest.raises(ValueError, match="zero variance.* x "):
        updated(make(setting), x, y, 13, 50).compute()


@each_setting
def test_another_width_in_the_middle_of_a_stream_is_rejected(setting: str) -> None:
    measure = updated(make(setting), *views(setting, 40, 5, 6))
    with pytest.raises(ValueError, match="width"):
        measure.update(*related(40, 5, 7))


@each_setting
def test_no_samples_are_too_few(setting: str) -> None:
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ValueError, match="have 0, .*need"):
        make(setting).compute()
