"""Measures of one model alone: against numpy, their invariances, their error bars, and as a table."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dissimilarity import MutualKNN, intrinsic
from dissimilarity.comparison.intrinsic_sites import intrinsic_of_site
from dissimilarity.comparison.plan import make_plan
from dissimilarity.functional import alpha_req, first_component_share, participation_ratio, rankme
from dissimilarity.probe.probe_set import Extent, ProbeSet
from tests.helpers.found_measures import generator
from tests.helpers.oracles import Array


def _rankme(x: Array) -> float:
    sizes = np.linalg.svd(x - x.mean(0), compute_uv=False)
    share = sizes[sizes > 1e-9 * sizes[0]] / sizes.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def _participation_ratio(x: Array) -> float:
    covariance = np.cov(x.T)
    return float(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))


def _alpha_req(x: Array) -> float:
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    values = values[values > 1e-12 * values[0]]
    place = np.arange(1, len(values) + 1)
    return float(-np.polyfit(np.log(place), np.log(values), 1, w=1 / np.sqrt(place))[0])


def _first(x: Array) -> float:
    values = np.linalg.eigvalsh(np.cov(x.T))
    return float(values[-1] / values.sum())


MEASURES: dict[str, tuple[Callable[..., Tensor], Callable[[Array], float]]] = {
    "rankme": (rankme, _rankme),
    "participation_ratio": (participation_ratio, _participation_ratio),
    "alpha_req": (alpha_req, _alpha_req),
    "first_component_share": (first_component_share, _first),
}
each_measure = pytest.mark.parametrize("name", MEASURES)


def samples(sequences: int = 24, length: int = 10, width: int = 8, seed: int = 0) -> Tensor:
    """Draw (sequences, length, width) with a decaying spectrum, off the origin; tokens share a part of a sequence."""
    g = generator(seed)
    shared, separate = (torch.randn(sequences, n, width, generator=g, dtype=torch.float64) for n in (1, length))
    return (0.5 * shared + separate) / torch.arange(1, width + 1) ** 0.5 + 3


@each_measure
def test_values_are_those_of_the_definition(name: str) -> None:
    function, oracle = MEASURES[name]
    wide = samples(3, 10, 50).flatten(0, 1)
    dead = torch.cat([samples().flatten(0, 1), torch.zeros(240, 3, dtype=torch.float64)], 1)
    for x in (samples().flatten(0, 1), wide, dead):
        assert function(x).item() == pytest.approx(oracle(x.numpy()), rel=1e-9)
        assert function(x.numpy()).item() == function(x).item()
    with pytest.raises(ValueError, match="zero variance"):
        function(torch.ones(5, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        function(torch.full((5, 3), math.nan))


@each_measure
def test_rotation_scale_and_translation_change_nothing_and_stretching_does(name: str) -> None:
    function, x = MEASURES[name][0], samples().flatten(0, 1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator(1), dtype=torch.float64)).Q
    for same in (x @ turn, 7 * x, x + 100):
        assert function(same).item() == pytest.approx(function(x).item(), rel=1e-8)
    assert abs(function(x * torch.logspace(0, 2, 8)).item() / function(x).item() - 1) > 0.05


def test_a_flat_spectrum_has_the_rank_and_a_power_law_its_power() -> None:
    flat = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    assert [f(flat).item() for f in (rankme, participation_ratio)] == pytest.approx([6, 6])
    assert [f(flat).item() for f in (alpha_req, first_component_share)] == pytest.approx([0, 1 / 6], abs=1e-12)
    for power in (0.5, 1.0, 2.0):
        scaled = flat * torch.arange(1, 7).double() ** (-power / 2)
        assert alpha_req(scaled).item() == pytest.approx(power, rel=1e-9)


def test_the_table_has_the_values_of_the_functions_with_the_jackknife_of_units() -> None:
    """By sums per unit, and by default by a second pass, where each sequence is one."""
    x = samples()
    for n_units, count in ((12, 12), (None, 24)):
        unit_of = torch.arange(24) * count // 24
        for row in intrinsic({"s": x.float(), "t": x}, n_units=n_units).to_pylist():
            function, _ = MEASURES[row["measure"]]
            exact = row["site"] == "t"
            assert row["value"] == pytest.approx(function(x.flatten(0, 1)).item(), rel=1e-9 if exact else 1e-5)
            without = [function(x[unit_of != unit].flatten(0, 1)).item() for unit in range(count)]
            expected = np.std(without) * math.sqrt(count - 1)
            assert row["stderr"] == pytest.approx(expected, rel=0.15)
            assert (row["n_samples"], row["n_units"], row["note"]) == (240, count, "")
    mask = torch.rand(24, 10, generator=generator(2)) < 0.8
    for row in intrinsic({"s": x}, mask=mask).to_pylist():
        assert row["value"] == pytest.approx(MEASURES[row["measure"]][0](x[mask]).item(), rel=1e-9)
        assert row["n_units"] == 24 and row["stderr"] > 0
    flat = intrinsic({"s": torch.ones_like(x)}).to_pylist()
    assert all(math.isnan(row["value"]) and row["note"] == "zero variance at s" for row in flat)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_features_leave_the_rest_of_the_spectrum(power: int, rotated: bool, dtype: torch.dtype) -> None:
    """The first token of real models has features of hundreds of times the spread of all others."""
    x = torch.randn(16, 20, 64, generator=generator(0), dtype=torch.float64) * torch.arange(1, 65) ** (-power / 2)
    x[:, 0, 5] += 1000
    turn = torch.linalg.qr(torch.randn(64, 64, generator=generator(1), dtype=torch.float64)).Q
    x = (x @ turn if rotated else x).to(dtype)
    exact = {row["measure"]: row for row in intrinsic({"s": x.double()}).to_pylist()}
    for row in intrinsic({"s": x}).to_pylist():
        oracle = MEASURES[row["measure"]][1](x.double().flatten(0, 1).numpy())
        assert row["value"] == pytest.approx(oracle, rel=1e-5)
        assert row["stderr"] == pytest.approx(exact[row["measure"]]["stderr"], rel=1e-3) and not row["note"]
    for row in intrinsic({"s": x}, n_units=8).to_pylist():  # streamed, so that nothing is read again
        is_lost = rotated and power == 2
        assert is_lost or row["value"] == pytest.approx(exact[row["measure"]]["value"], rel=1e-4)
        assert ("float32 products do not resolve" in row["note"]) == is_lost


def test_directions_that_float32_products_lose_are_read_again_or_noted() -> None:
    x = samples(24, 10, 8).float()
    x = torch.cat([x, x[..., :2] + 1e-5 * samples(24, 10, 2, seed=1).float()], -1)
    for again, note in (
        (None, ""),
        (12, "imprecise: float32 products do not resolve 2 of 10 directions"),
    ):
        for row in intrinsic({"s": x}, n_units=again).to_pylist():
            oracle = MEASURES[row["measure"]][1](x.double().flatten(0, 1).numpy())
            assert row["note"].startswith(note) and bool(row["note"]) == bool(note)
            assert note or row["value"] == pytest.approx(oracle, rel=1e-6)


def test_without_sums_the_sampled_samples_are_measured() -> None:
    x = samples()
    side = make_plan(ProbeSet(Extent(24, 10), n_units=12), [MutualKNN(max_samples=240)]).side(["s"])
    side.add({"s": x}, range(12))
    for row, expected in zip(
        intrinsic_of_site(side.close(), "s"), intrinsic({"s": x}, n_units=12).to_pylist(), strict=True
    ):
        assert row["value"] == pytest.approx(expected["value"], rel=1e-9)
        assert row["stderr"] == pytest.approx(expected["stderr"], rel=1e-9)


def test_a_second_pass_of_a_model_gives_the_error_bars_of_its_saved_activations() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 6).double(), torch.nn.Tanh())
    with torch.no_grad():
        saved = intrinsic({"0": net[0](samples())}).to_pylist()
    for row, expected in zip(intrinsic(net, samples(), "0").to_pylist(), saved, strict=True):
        for key in ("value", "stderr"):
            assert row[key] == pytest.approx(expected[key], rel=1e-9)
        assert row["n_units"] == 24 and row["stderr"] > 0


def test_intervals_cover_the_expected_value() -> None:
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(150):
        for row in intrinsic({"s": samples(48, 6, 5, seed)}, n_units=16).to_pylist():
            results.setdefault(row["measure"], []).append((row["value"], row["stderr"]))
    for pairs in results.values():
        value, stderr = np.array(pairs).T
        assert 0.9 <= (abs(value - value.mean()) < 2.13 * stderr).mean() <= 0.99


def test_one_direction_has_rank_one_with_an_error_bar_and_no_power() -> None:
    x = torch.zeros(40, 5, 8, dtype=torch.float64)
    x[..., 2] = torch.randn(40, 5, generator=generator(3), dtype=torch.float64)
    values = {row["measure"]: row for row in intrinsic({"x": x}).to_pylist()}
    for name in ("rankme", "participation_ratio", "first_component_share"):
        assert values[name]["value"] == pytest.approx(1) and values[name]["stderr"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(values["alpha_req"]["value"])
