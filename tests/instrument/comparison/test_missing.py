"""Values that say nothing have no error bar or no calibrated value, and a note."""

import math

import pytest
import torch
from torch import Tensor

from dissimilarity import CCA, CKA, PWCCA, SVCCA, LinearRegression, MutualKNN, Procrustes, compare
from dissimilarity.comparison.intrinsic import intrinsic
from dissimilarity.functional import jaccard_knn, mutual_knn
from dissimilarity.measures.base.measure import Measure


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
    assert math.isnan(row["stderr"]) and "so many dimensions that they agree in any 24 samples" in row["note"]
    (row,) = compare({"x": x[:, :3]}, {"y": y[:, :3]}, measures=[measure], n_units=n_units).to_pylist()
    assert "agree in any" not in row["note"] and math.isfinite(row["stderr"]) == (n_units != 1)


def test_few_dimensions_of_y_alone_force_no_prediction() -> None:
    x, y = noise(24, 40)
    (row,) = compare({"x": x[:, :3]}, {"y": y}, measures=[LinearRegression()]).to_pylist()
    assert row["value"] < 0.5 and math.isfinite(row["stderr"]) and "agree in any" not in row["note"]


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
