"""The calibrated value: its standard error holds value and null together, and it is missing where it says nothing."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dissimilarity import CKA, Control, DistanceCorrelation, LinearRegression, MutualKNN, Procrustes, compare
from dissimilarity.inference.calibration import calibrate, p_value
from dissimilarity.probe.padding import SequenceLengths
from dissimilarity.probe.rearrangement import rearranged

S, T, D = 32, 4, 6


def drawn(generator: torch.Generator, related: float, masked: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return two models that share positions, and text as far as they are related."""

    def normal(*shape: int, seed: int | None = None) -> Tensor:
        source = generator if seed is None else torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    text = normal(S, 1, D) + normal(S, T, D)
    sides = [
        0.5 * normal(S, 1, D)
        + normal(S, T, D)
        + normal(1, T, D, seed=1) @ normal(D, D, seed=2 + side)
        + related * text @ normal(D, D, seed=4 + side)
        for side in range(2)
    ]
    mask = torch.arange(T) < torch.randint(1, T + 1, (S, 1), generator=generator) if masked else None
    return sides[0], sides[1], mask


@pytest.mark.parametrize("nulls", [1, 9])
def test_intervals_of_the_calibrated_value_cover_its_mean(nulls: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows: dict[str, list[tuple[float, float]]] = {"cka": [], "procrustes": []}
    for _ in range(30):
        x, y, _ = drawn(generator, related=0.5)
        for row in compare({"x": x}, {"y": y}, measures=[CKA(), Procrustes()], nulls=nulls).to_pylist():
            rows[row["measure"]].append((row["calibrated"], row["calibrated_stderr"]))
    for values in rows.values():
        value, stderr = np.array(values).T
        covered = np.abs(value - value.mean()) <= stats.t.ppf(0.975, 15) * stderr
        assert covered.mean() >= 0.88
        assert 0.7 < math.sqrt((stderr**2).mean()) / value.std() < 1.6


@pytest.mark.parametrize("masked", [False, True])
def test_models_that_share_positions_alone_score_zero(masked: bool) -> None:
    """Also with sequences of unequal length, whose positions the null keeps."""
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(12):
        x, y, mask = drawn(generator, 0.0, masked)
        (row,) = compare({"x": x}, {"y": y}, measures=[CKA()], mask=mask).to_pylist()
        assert row["value"] > 0.1
        values.append(row["calibrated"])
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values)) + 1e-3
    assert abs(np.mean(values)) < 0.04


def unrelated(sequences: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return two models that have nothing in common, and whose tokens depend on those of their sequence."""
    shape, lengths = (sequences, longest, 8), torch.randint(3, longest + 1, (sequences, 1), generator=generator)
    x, y = (
        0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        + torch.randn(sequences, 1, 8, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return x, y, torch.arange(longest) < lengths


@pytest.mark.parametrize(("max_samples", "has_holes"), [(300, False), (2000, False), (2000, True)])
def test_unrelated_models_look_so_at_unequal_lengths(max_samples: int, has_holes: bool) -> None:
    """A null that takes the tokens of a sequence apart would be too low: kNN would have intervals above 0 only."""
    generator, related, values = torch.Generator().manual_seed(2), [], []
    measures = [MutualKNN(max_samples=max_samples), DistanceCorrelation(max_samples=max_samples), Procrustes()]
    for _ in range(4):
        x, y, mask = unrelated(64, 24, generator)
        if has_holes:
            mask = torch.ones_like(mask).scatter_(1, torch.randint(24, (64, 1), generator=generator), False)
        for row in compare({"x": x}, {"y": y}, measures=measures, mask=mask).to_pylist():
            related.append(row["calibrated"] > stats.t.ppf(0.975, 63) * row["calibrated_stderr"])
            values.append(row["calibrated"])
    assert not any(related) and np.nanmean(values) < 0.12


def test_positions_that_are_dropped_take_sequences_apart_too() -> None:
    x, y, _ = unrelated(32, 16, torch.Generator().manual_seed(4))
    measures = [CKA(), Procrustes()]
    cka, procrustes = compare({"x": x}, {"y": y}, measures=measures, control=Control(drop_top_norm=6)).to_pylist()
    assert math.isfinite(cka["calibrated"]) and math.isnan(procrustes["calibrated"])
    assert "the null takes" in procrustes["note"]


def test_several_circles_count_as_what_they_break_up() -> None:
    lengths = torch.tensor([3, 4, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24])
    plan = SequenceLengths(torch.arange(16), lengths)
    sequence = torch.arange(16).repeat_interleave(lengths)
    position = torch.cat([torch.arange(length) for length in lengths.tolist()])
    shares = []
    for place in plan.circles(5):
        order = rearranged(sequence, position, place)
        assert order is not None
        moved = [int(torch.bincount(sequence[order][sequence == at]).max()) for at in range(16)]
        shares.append(1 - sum(moved) / len(sequence))
    assert plan.broken == pytest.approx(shares[0]) and plan.broken_in(5) == pytest.approx(np.mean(shares))
    assert plan.broken_in(5) > plan.broken > 0.05


def test_samples_out_of_their_sequences_count_in_the_error_as_far_as_the_null_does() -> None:
    unit, nulls = torch.tensor([0.01, -0.01, 0.02, -0.02]), torch.tensor([0.2])
    for value, share in ((0.2, 0.05), (0.6, 0.025), (1.0, 0.0)):
        plain, wider = (calibrate(value, nulls, 1.0, unit, unit / 2, broken=broken) for broken in (0.0, 0.02))
        assert plain is not None and wider is not None and wider.value == plain.value
        assert wider.stderr**2 == pytest.approx(plain.stderr**2 + share**2)


def test_where_sequences_fall_apart_only_whole_ones_are_calibrated() -> None:
    x, y, mask = unrelated(8, 16, torch.Generator().manual_seed(3))
    measures = [CKA(), MutualKNN(), Procrustes()]
    cka, *others = compare({"x": x}, {"y": y}, measures=measures, mask=mask).to_pylist()
    assert math.isfinite(cka["calibrated"]) and math.isfinite(cka["null"]) and not cka["note"]
    for row in others:
        assert math.isnan(row["calibrated"]) and math.isfinite(row["null"])
        assert "sequences have so few positions in common that the null takes" in row["note"]


def test_it_is_missing_with_a_note_where_any_text_gives_a_perfect_value() -> None:
    """R^2 with no more samples than dimensions is 1 whatever the models have in common."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 24, 40, generator=generator)
    (row,) = compare({"x": x}, {"y": y}, measures=[LinearRegression()]).to_pylist()
    assert row["value"] == pytest.approx(1) and math.isnan(row["calibrated"]) and math.isnan(row["calibrated_stderr"])
    assert row["note"].startswith(
        "linear_regression says nothing about the models: in any 24 samples, 23 of 23 directions"
    )
    (row,) = compare({"x": x[:, :2]}, {"y": y}, measures=[LinearRegression()]).to_pylist()
    assert math.isfinite(row["calibrated"]) and "calibrated" not in row["note"]


@pytest.mark.parametrize("units", [4, 16, 128])
def test_a_null_that_is_that_of_identical_models_in_truth_has_a_value_in_5_percent(units: int) -> None:
    """And one that is far from it, in standard errors, nearly always."""
    rng = np.random.default_rng(units)

    def share_with_value(distance: float) -> float:
        draws = 1000
        unit = rng.normal(1 - distance / math.sqrt(units), 1, (draws, units))
        means = torch.tensor(unit.mean(1))
        influences = torch.tensor((unit - unit.mean(1, keepdims=True)) / units)
        results = [calibrate(0.9, means[i : i + 1], 1.0, influences[i], influences[i]) for i in range(draws)]
        return sum(result is not None for result in results) / draws

    assert share_with_value(0) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 1000))
    expected = float(stats.nct.sf(stats.t.ppf(0.975, units - 1), units - 1, 4))
    assert share_with_value(4) == pytest.approx(expected, abs=0.05) and expected > 0.5


def test_what_value_and_null_share_cancels_in_the_error() -> None:
    """Where both move together, so that the calibrated value stays, it has no error."""
    shared = torch.tensor([0.01, -0.02, 0.03, -0.02], dtype=torch.float64)
    null = torch.tensor([0.5], dtype=torch.float64)
    together = calibrate(0.75, null, 1.0, 0.5 * shared, shared)
    alone = calibrate(0.75, null, 1.0, 0.5 * shared, 0 * shared)
    assert together is not None and alone is not None
    assert together.stderr == pytest.approx(0, abs=1e-12) and alone.stderr > 0.01


def test_p_counts_the_value_itself_and_needs_several_nulls() -> None:
    null = torch.arange(19.0)
    assert [p_value(value, null) for value in (18.5, 18.0, -1.0)] == [0.05, 0.1, 1.0]
    assert math.isnan(p_value(1.0, null[:1])) and math.isnan(p_value(math.nan, null))
