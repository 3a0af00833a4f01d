"""Values that say nothing have no error bar or no calibrated value, and a note."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from dissimilarity import CCA, CKA, PWCCA, SVCCA, Bures, LinearRegression, MutualKNN, Procrustes, compare, functional
from dissimilarity.comparison.intrinsic import intrinsic
from dissimilarity.functional import jaccard_knn, mutual_knn
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.outliers import Control


def noise(*shape: int) -> list[Tensor]:
    return list(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


@pytest.mark.parametrize("n_units", [None, 4, 1])
@pytest.mark.parametrize(
    ("measure", "n", "widths"),
    [
        (LinearRegression(), 24, (23, 3)),
        (LinearRegression(), 24, (40, 40)),
        (CCA(), 24, (12, 12)),
        (PWCCA(), 24, (20, 5)),
        (SVCCA(), 24, (20, 20)),
    ],
)
def test_sides_that_agree_whatever_the_data_have_no_error_and_a_note(
    measure: Measure, n: int, widths: tuple[int, int], n_units: int | None
) -> None:
    x, y = noise(n, 40)
    (row,) = compare(
        {"x": x[:, : widths[0]]}, {"y": y[:, : widths[1]]}, measures=[measure], n_units=n_units
    ).to_pylist()
    assert math.isnan(row["stderr"]) and "in any 24 samples" in row["note"] and math.isnan(row["calibrated"])
    (row,) = compare({"x": x[:, :3]}, {"y": y[:, :3]}, measures=[measure], n_units=n_units).to_pylist()
    assert "in any" not in row["note"] and math.isfinite(row["stderr"]) == (n_units != 1)


def test_few_dimensions_of_y_alone_force_no_prediction() -> None:
    x, y = noise(24, 40)
    (row,) = compare({"x": x[:, :3]}, {"y": y}, measures=[LinearRegression()]).to_pylist()
    assert row["value"] < 0.5 and math.isfinite(row["stderr"]) and "in any" not in row["note"]


@pytest.mark.parametrize("k", [1, 4])
def test_neighbors_that_are_all_other_samples_in_any_model_are_refused(k: int) -> None:
    x, y = noise(k + 2, 3)
    for function in (mutual_knn, jaccard_knn):
        with pytest.raises(ValueError, match=rf"have {k + 1}.*{k + 2}"):
            function(x[: k + 1], y[: k + 1], k=k)
        assert 0 <= function(x, y, k=k) <= 1
    acts = {"x": x.expand(1, -1, -1)[0]}, {"y": y}
    (row,) = compare({"x": x[: k + 1]}, {"y": y[: k + 1]}, measures=[MutualKNN(k=k)]).to_pylist()
    assert math.isnan(row["value"]) and f"needs {k + 2}" in row["note"]
    (row,) = compare(*acts, measures=[MutualKNN(k=k)]).to_pylist()
    assert math.isfinite(row["value"]) and math.isnan(row["stderr"]) and row["note"]


def test_neighbors_in_all_other_sequences_are_refused() -> None:
    """Two sequences of 4 samples: 4 neighbors in the other one are all of it."""
    x, y = noise(2, 4, 3)
    sequence = torch.arange(2).repeat_interleave(4)
    with pytest.raises(ValueError, match="have 4, 4 nearest neighbors need 5"):
        mutual_knn(x.flatten(0, 1), y.flatten(0, 1), k=4, own_sequence=False, units=sequence)
    assert mutual_knn(x.flatten(0, 1), y.flatten(0, 1), k=3, own_sequence=False, units=sequence) <= 1


@pytest.mark.parametrize("sequences", [3, 4])
def test_a_null_without_error_bar_gives_no_calibrated_value(sequences: int) -> None:
    """Nobody can say then whether the null is that of identical models; without error bars nobody asked."""
    x, y = noise(sequences, 30, 3)
    measure = Procrustes() if sequences == 3 else CKA()
    (row,) = compare({"x": x}, {"y": y}, measures=[measure]).to_pylist()
    assert math.isfinite(row["null"]) and math.isnan(row["stderr"]) and math.isnan(row["calibrated"])
    assert "has no calibrated value: its null" in row["note"] and "has no standard error" in row["note"]
    (row,) = compare({"x": x}, {"y": y}, measures=[measure], n_units=1).to_pylist()
    assert math.isfinite(row["calibrated"])


def test_a_missing_error_of_one_model_alone_has_a_note() -> None:
    x, _ = noise(3, 30, 3)
    assert {row["note"] for row in intrinsic({"x": x}).to_pylist()} == {
        "no standard error: it needs 4 sequences in 2 units and has 3: pass more"
    }
    x, _ = noise(4, 30, 3)
    rows = intrinsic({"x": x}).to_pylist()
    assert not any(row["note"] for row in rows) and all(math.isfinite(row["stderr"]) for row in rows)


def test_a_value_that_is_forced_in_part_says_in_how_many_directions() -> None:
    """12 centered samples have 11 dimensions, which two times 6 exceed by one."""
    x, y = noise(12, 6)
    (row,) = compare({"x": x}, {"y": y}, measures=[CCA()]).to_pylist()
    assert (
        row["note"]
        == "cca says little about the models: in any 12 samples, 1 of 6 directions agree, so pass more samples"
    )
    assert torch.linalg.svdvals(torch.linalg.qr(x - x.mean(0)).Q.T @ torch.linalg.qr(y - y.mean(0)).Q)[:2].tolist() == [
        pytest.approx(1, abs=1e-9),
        pytest.approx(0.9, abs=0.0999),
    ]


def padded(lengths: list[int], width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x, y = noise(len(lengths), max(lengths), width)
    return x, y, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("lengths", [[3, 4, 4, 5, 5, 6], [4, 4, 5, 4], [10, 10, 40, 10, 10, 10]])
@pytest.mark.parametrize("n_units", [None, 2])
def test_unequal_lengths_leave_every_unit_of_error_bars(lengths: list[int], n_units: int | None) -> None:
    x, y, mask = padded(lengths)
    for null in (True, False):
        (row,) = compare({"x": x}, {"y": y}, measures=[Procrustes()], mask=mask, null=null, n_units=n_units).to_pylist()
        assert row["n_units"] == (n_units or len(lengths)) and math.isfinite(row["stderr"])
        assert math.isfinite(row["null"]) == null


def test_a_sequence_with_most_of_the_samples_leaves_no_null_and_a_note() -> None:
    x, y, mask = padded([2, 2, 2, 2, 2, 20])
    rows = compare({"x": x}, {"y": y}, measures=[CKA(), MutualKNN(k=3)], mask=mask, nulls=9).to_pylist()
    for row in rows:
        label = row["measure"]
        assert math.isfinite(row["value"]) and math.isfinite(row["stderr"]) and math.isnan(row["null"])
        assert row["note"] == f"{label} has no null: 20 of its 30 samples are from one sequence: split it, or pass more"


def test_the_interval_of_a_calibrated_value_has_the_degrees_of_freedom_of_its_groups() -> None:
    """8 sequences make 4 groups for the null; the interval is meant for t with as many units as the record names."""
    x, y = noise(8, 20, 3)
    y = y + x
    (row,) = compare({"x": x}, {"y": y}, measures=[Procrustes()]).to_pylist()
    (grouped,) = compare({"x": x}, {"y": y}, measures=[Procrustes()], n_units=4).to_pylist()
    assert (row["n_units"], grouped["n_units"]) == (8, 4)
    wider = stats.t.ppf(0.975, 3) / stats.t.ppf(0.975, 7)
    assert row["calibrated_stderr"] == pytest.approx(wider * grouped["calibrated_stderr"], rel=0.15)


def test_sequences_too_different_in_length_stay_in_place() -> None:
    """Two pairs exchange places, in 4 orders with the actual one, and the others lose no position to them."""
    x, y, mask = padded([2, 5, 11, 12, 30, 31])
    (row,) = compare({"x": x}, {"y": y}, measures=[Procrustes()], mask=mask, nulls=9).to_pylist()
    assert row["p"] in (0.25, 0.5, 0.75, 1)
    (row,) = compare({"x": x}, {"y": x}, measures=[Procrustes()], mask=mask, nulls=9).to_pylist()
    assert row["p"] == 0.25 and "sequences have so few positions in common that the null takes" in row["note"]


def test_no_p_has_a_note() -> None:
    """No two of the sequences that could exchange places have a position in common."""
    x, y, _ = padded([2] * 8)
    for at in range(8):
        x[at, at % 2] *= 50
    measures = [Procrustes(), MutualKNN(k=2)]
    rows = compare({"x": x}, {"y": y}, measures=measures, nulls=9, control=Control(drop_top_norm=1)).to_pylist()
    for row in rows:
        assert (
            math.isnan(row["p"])
            and f"{row['measure']} has no p value: too few sequences of similar length" in row["note"]
        )


def test_a_spectrum_of_one_component_has_no_decay_and_says_so() -> None:
    x, _ = noise(6, 3, 1)
    by_name = {row["measure"]: row for row in intrinsic({"x": x}).to_pylist()}
    assert math.isnan(by_name["alpha_req"]["stderr"]) and by_name["alpha_req"]["note"] == "alpha_req needs 2 components"
    assert math.isfinite(by_name["rankme"]["value"]) and not by_name["rankme"]["note"]


@pytest.mark.parametrize("exponent", [-200, -165, -150, -70, 40, 70, 76, 150])
@pytest.mark.parametrize("both", [False, True])
def test_units_change_nothing_or_are_too_large_or_small(exponent: int, both: bool) -> None:
    x, y = noise(12, 4, 3)
    unit = 10.0**exponent
    measures = [CKA(), CKA(debiased=False), Procrustes(), Bures(), LinearRegression(), MutualKNN(k=3)]
    rows = compare({"x": x * unit}, {"y": y * (unit if both else 1)}, measures=measures).to_pylist()
    for row, expected in zip(rows, compare({"x": x}, {"y": y}, measures=measures).to_pylist(), strict=True):
        if abs(exponent) > 75:
            assert math.isnan(row["value"])
            assert row["note"] == "values at x are too large or too small for their products: scale them to about 1"
        else:
            for name in ("value", "stderr", "null"):
                assert row[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), (row["measure"], name)


@pytest.mark.parametrize("name", ["cka", "minibatch_cka", "procrustes", "bures", "cca", "svcca", "gulp"])
@pytest.mark.parametrize("unit", [1e-200, 1e-165, 1e-80, 1e150])
def test_functions_refuse_values_too_large_or_small(name: str, unit: float) -> None:
    x, y = (side.flatten(0, 1) for side in noise(12, 4, 3))
    for sides in ((x * unit, y), (y, x * unit)):
        with pytest.raises(ValueError, match=r"values are too .* scale them to about 1$"):
            getattr(functional, name)(*sides)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("repeated", [False, True])
def test_sequences_of_low_rank_have_the_errors_of_float64(dtype: torch.dtype, repeated: bool) -> None:
    """Padding and repeated tokens leave directions without any samples of a sequence, of which rounding decides."""
    x, y = noise(12, 20, 6)
    mask = torch.arange(20) < torch.tensor([5, 2, 3, 4, 20, 3, 2, 4, 6, 3, 3, 9])[:, None]
    if repeated:
        words, mask = torch.randint(5, (12, 20), generator=torch.Generator().manual_seed(1)), torch.ones(12, 20).bool()
        x = x.flatten(0, 1)[words]
    x, y = x.to(dtype), y.to(dtype)
    measures = [CCA(), PWCCA(), SVCCA()]
    exact = compare({"x": x.double()}, {"y": y.double()}, measures=measures, mask=mask).to_pylist()
    for row, other in zip(compare({"x": x}, {"y": y}, measures=measures, mask=mask).to_pylist(), exact, strict=True):
        assert row["stderr"] == pytest.approx(other["stderr"], rel=0.01), row["measure"]


def test_p_of_values_that_agree_whatever_the_data_is_1() -> None:
    """The values of rearrangements differ by rounding alone."""
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(8, 20, generator=g), torch.randn(8, 3, generator=g)
        rows = compare({"x": x}, {"y": y}, measures=[CCA(), LinearRegression()], nulls=19).to_pylist()
        assert [row["p"] for row in rows] == [1, 1]


def test_rounding_of_perfect_correlations_decides_no_error() -> None:
    """A repeated sequence and token leave correlations of 1, of which rounding puts some above it."""
    x, y = noise(6, 10, 30)
    y = y + x
    x[1], y[1], x[:, 2], y[:, 2] = x[0].clone(), y[0].clone(), x[:, 1].clone(), y[:, 1].clone()
    for measure in (SVCCA(), CCA()):
        pairs = [(x, y), (3 * x, y), (x.flip(0), y.flip(0)), (x.float(), y.float())]
        rows = [compare({"x": a}, {"y": b}, measures=[measure]).to_pylist()[0] for a, b in pairs]
        for row in rows[1:]:
            assert row["value"] == pytest.approx(rows[0]["value"], rel=1e-5)
            assert row["stderr"] == pytest.approx(rows[0]["stderr"], rel=1e-3, nan_ok=True)
