"""Every measure found in dissimilarity/measures and every setting of conf/measure, held to what they declare."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

import dissimilarity
from dissimilarity import functional
from dissimilarity.functional import cka
from dissimilarity.measures.base.measure import INVARIANCES
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from tests.helpers.found_measures import (
    CONF,
    OUTPUT_SETTINGS,
    SETTINGS,
    each_output,
    each_representation,
    each_setting,
    enough,
    fit,
    function_of,
    generator,
    make,
    measure_classes,
    related,
    updated,
    views,
)


def transform(name: str, width: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a random transformation of one side, of the kind of that name."""
    g = generator(seed)
    matrix = torch.randn(width, width, generator=g, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix)
    stretched = left * torch.logspace(0, 1, width, dtype=torch.float64) @ right
    return {
        "orthogonal": lambda x: x @ left,
        "isotropic_scaling": lambda x: 3.7 * x,
        "translation": lambda x: x + 3 * x.std() * matrix[0],
        "permutation": lambda x: x[:, torch.randperm(width, generator=g)],
        "invertible_linear": lambda x: x @ stretched,
    }[name]


def test_every_class_has_a_function_a_public_name_and_a_yaml() -> None:
    classes = measure_classes()
    assert classes
    assert set(classes) == {type(make(setting)) for setting in SETTINGS}
    for measure, name in classes.items():
        assert callable(getattr(functional, name)) and name in functional.__all__
        assert getattr(dissimilarity, measure.__name__) is measure and measure.__name__ in dissimilarity.__all__


def test_labels_tell_all_settings_apart() -> None:
    labels = [make(setting).label for setting in SETTINGS]
    assert len(set(labels)) == len(labels)
    assert labels == SETTINGS


def test_the_set_of_all_contains_every_measure() -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / "measures" / "all.yaml"))
    assert sorted(next(iter(entry.values())) for entry in config["defaults"]) == SETTINGS


@each_setting
def test_declarations_agree_with_each_other(setting: str) -> None:
    measure = make(setting)
    low, high = measure.bounds
    assert low < high
    assert measure.identical == (high if measure.higher_is_more_similar else low)
    assert measure.invariant_to <= set(INVARIANCES)
    assert "orthogonal" not in measure.invariant_to or "permutation" in measure.invariant_to
    assert measure.minimum_samples >= (1 if setting in OUTPUT_SETTINGS else 2)
    assert isinstance(measure, (MomentMeasure, SampleMeasure))


@each_setting
def test_identical_inputs_get_exactly_the_best_value(setting: str) -> None:
    measure, function = make(setting), function_of(setting)
    for n, p in ((60, 7), (30, 50), (200, 3)):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            least = 2 * (2 * p + 1) if measure.crossfit else n  # a half has more samples than both sides' directions
            x = related(max(enough(setting, n), least), p, seed=n)[0].to(dtype)
            assert function(x, x).item() == measure.identical
            assert measure.to_dissimilarity(function(x, x)).item() == 0.0


@each_setting
def test_more_noise_is_more_dissimilar(setting: str) -> None:
    measure, function = make(setting), function_of(setting)
    x, _ = related(200)
    noise = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    by_noise = [function(x, x + size * noise) for size in (0.0, 0.3, 1.0, 3.0, 100.0)]
    dissimilarities = [measure.to_dissimilarity(value).item() for value in by_noise]
    assert dissimilarities == sorted(dissimilarities)
    assert dissimilarities[0] == 0.0 and dissimilarities[1] > 1e-3
    values = [value.item() for value in by_noise]
    assert values == sorted(values, reverse=measure.higher_is_more_similar)
    assert measure.to_dissimilarity(by_noise[2].item()) == dissimilarities[2]


@each_setting
@settings(max_examples=6)
@given(
    n=st.integers(12, 40),
    p=st.integers(2, 50),
    q=st.integers(2, 50),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_values_stay_within_the_bounds(setting: str, n: int, p: int, q: int, seed: int, spread: float) -> None:
    # a half of 17 * 12 samples has 102, one more than the directions of two sides of 50 and the mean take
    x, y = views(setting, 17 * n if make(setting).crossfit else n, p, q, seed)
    x = x * torch.exp(spread * torch.randn(x.shape[1], generator=generator(seed), dtype=torch.float64))
    low, high = make(setting).bounds
    function = function_of(setting)
    for a, b in ((x, y), (x, -x), (x, x.flip(0))):
        value = function(a, b)
        assert value.dtype == torch.float64 and value.shape == ()
        assert low - 1e-12 <= value.item() <= high + 1e-12


@each_setting
def test_symmetric_as_declared(setting: str) -> None:
    function = function_of(setting)
    differences = [
        (function(x, y) - function(y, x)).abs().item() for x, y in (views(setting, seed=s) for s in range(5))
    ]
    if make(setting).is_symmetric:
        assert max(differences) < 1e-10
    else:
        assert max(differences) > 1e-3


def triples(p: int, q: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Return data of widths p, q and q for the same samples: unrelated, and interpolated from one to another."""
    for seed in range(15):
        x, y = related(40, p, q, seed)
        z, w = related(40, q, q, seed + 100)
        yield x, y, z
        yield z, (z + w) / 2, w
        yield z, z + 0.1 * w, z + 0.2 * w


@each_setting
def test_triangle_inequality_as_declared(setting: str) -> None:
    """Checked on the value itself; a value that is not 0 between equals is not a metric."""
    measure, function = make(setting), function_of(setting)
    slack = [(function(x, y) + function(y, z) - function(x, z)).item() for x, y, z in triples(*fit(setting, 5, 8))]
    if measure.is_metric:
        assert measure.identical == 0.0 and measure.is_symmetric and not measure.higher_is_more_similar
        assert min(slack) > -1e-9
    else:
        is_estimate = measure.identical != 0.0 or not measure.is_symmetric or measure.crossfit
        assert is_estimate or min(slack) < -1e-3


@pytest.mark.parametrize("invariance", INVARIANCES)
@each_setting
def test_invariant_as_declared_and_to_nothing_else(setting: str, invariance: str) -> None:
    function = function_of(setting)
    changes = []
    for seed in range(3):
        x, y = views(setting, 80, 6, 9, seed)
        value = function(x, y)
        changes.append((function(transform(invariance, x.shape[1], seed)(x), y) - value).abs().item())
        changes.append((function(x, transform(invariance, y.shape[1], seed)(y)) - value).abs().item())
    if invariance in make(setting).invariant_to:
        assert max(changes) < 1e-9
    else:
        assert max(changes) > 1e-3


@each_setting
def test_the_order_of_samples_does_not_matter(setting: str) -> None:
    x, y = views(setting, 80)
    order = torch.randperm(80, generator=generator(0))
    if make(setting).crossfit:  # alternate samples form the halves, so each half keeps its own
        order = torch.stack([order[order % 2 == 0], order[order % 2 == 1]], 1).flatten()
    function = function_of(setting)
    assert function(x[order], y[order]).item() == pytest.approx(function(x, y).item(), abs=1e-12)


@each_representation
def test_widths_may_differ(setting: str) -> None:
    function = function_of(setting)
    for p, q in ((1, 30), (30, 1), (3, 40)):
        assert torch.isfinite(function(*views(setting, enough(setting, 50), p, q)))


@each_representation
def test_the_minimum_of_features_is_the_first_number_that_works(setting: str) -> None:
    need = make(setting).minimum_width
    if need > 1:
        with pytest.raises(ValueError, match=f"at least {need} features, found {need - 1}"):
            function_of(setting)(*related(50, need - 1, need))


@pytest.mark.usefixtures("unchecked")
@each_output
def test_outputs_of_other_classes_are_rejected(setting: str) -> None:
    for refused in (function_of(setting), make(setting)):
        with pytest.raises(ValueError, match="same classes on both sides, found 7 and 5; .*one vocabulary"):
            refused(*related(50, 7, 5))


@each_output
def test_equal_outputs_of_all_samples_are_as_good_as_others(setting: str) -> None:
    """A model whose last layer starts at zero outputs the same distribution everywhere."""
    x, _ = related(50)
    value = function_of(setting)(x, torch.zeros_like(x))
    assert value > 0.01
    assert updated(make(setting), x, torch.zeros_like(x), 20).compute().item() == pytest.approx(value.item())


@each_setting
def test_the_minimum_of_samples_is_the_first_number_that_works(setting: str) -> None:
    function, need = function_of(setting), make(setting).minimum_samples
    x, y = views(setting, need, 1, 1) if make(setting).crossfit else views(setting, need)
    assert torch.isfinite(function(x, y))
    with pytest.raises(ValueError, match=f"too few samples.*{need - 1}.*{need}"):
        function(x[:-1], y[:-1])
    with pytest.raises(ValueError, match=f"too few samples.*{need - 1}.*{need}"):
        updated(make(setting), x[:-1], y[:-1], 1).compute()


@each_setting
def test_arrays_and_lists_are_accepted_like_tensors(setting: str) -> None:
    x, y = views(setting)
    function, measure = function_of(setting), make(setting)
    expected = function(x, y)
    assert function(x.numpy(), y.numpy()) == expected
    assert function(x.tolist(), y.tolist()) == expected
    assert function(x.numpy()[::-1], y.numpy()[::-1]) == function(x.flip(0), y.flip(0))
    assert measure.value(x.numpy(), y.tolist()) == expected
    measure.update(x.numpy(), y.tolist())
    torch.testing.assert_close(measure.compute(), expected, rtol=1e-9, atol=1e-9)


def test_cka_passes_three_files() -> None:
    """The longest chain of calls from `cka` to the sums is three files of ours deep."""
    depths = []

    def record(frame: Any, event: str, _: Any) -> None:
        files = []
        while event == "call" and frame is not None:
            if "dissimilarity" in frame.f_globals.get("__name__", "").split("."):
                files.append(frame.f_code.co_filename)
            frame = frame.f_back
        depths.append(len(set(files) - {"<string>"}))

    x, y = views("cka")
    jaxtyping.config.update("jaxtyping_disable", True)
    sys.setprofile(record)
    try:
        cka(x, y)
    finally:
        sys.setprofile(None)
        jaxtyping.config.update("jaxtyping_disable", False)
    assert max(depths) <= 3
