"""Sites with more features than samples: the values of all features, from sums of the samples' size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CCA, CKA, RSA, Bures, MutualKNN, Procrustes, compare
from dissimilarity.comparison import wide_sites
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.functional import cka, procrustes
from dissimilarity.moments.running import RunningSums

WIDTH = 1500
MEASURES = [CKA(), Procrustes(), Bures(), CCA(), MutualKNN(), RSA()]


def arrays(shape: tuple[int, ...] = (40,)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, WIDTH, generator=generator) + 3
    y = x[..., :1300] @ torch.randn(1300, 1300, generator=generator) / 30 + torch.randn(
        *shape, 1300, generator=generator
    )
    return x, y


def test_the_values_are_those_of_all_features() -> None:
    x, y = arrays()
    rows = {row["measure"]: row for row in compare({"x": x}, {"y": y}, measures=MEASURES).to_pylist()}
    assert rows["cka"]["value"] == pytest.approx(float(cka(x.double(), y.double())), abs=1e-9)
    assert rows["procrustes"]["value"] == pytest.approx(float(procrustes(x.double(), y.double())), abs=1e-9)
    for measure in MEASURES:
        assert rows[measure.label]["value"] == pytest.approx(float(measure(x.double(), y.double())), abs=1e-5)


@pytest.mark.parametrize("shape", [(40,), (10, 4)])
def test_errors_and_nulls_are_those_of_all_features(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = arrays(shape)
    options: Any = {"measures": [CKA(), Procrustes()], "n_units": 4}
    rows = compare({"x": x}, {"y": y}, **options).to_pylist()
    monkeypatch.setattr(wide_sites, "WIDE", 10**9)
    for row, expected in zip(rows, compare({"x": x.double()}, {"y": y.double()}, **options).to_pylist(), strict=True):
        for column in ("value", "stderr", "null", "calibrated", "first_pc_a", "first_pc_b", "n_samples"):
            assert row[column] == pytest.approx(expected[column], abs=1e-8)


def sums_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the size of every sum that is kept."""
    sizes: list[int] = []
    add = RunningSums.add

    def recorded(self: RunningSums, site: str, key: str, total: Tensor, *args: Any) -> None:
        sizes.append(total.numel())
        add(self, site, key, total, *args)

    monkeypatch.setattr(RunningSums, "add", recorded)
    return sizes


def test_no_sum_is_larger_than_the_samples_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a model, of many models, and beside a measure that needs the features themselves."""
    x, y = arrays()
    nets = [nn.Sequential(nn.Linear(8, WIDTH)) for _ in range(3)]
    sizes = sums_of(monkeypatch)
    compare({"x": x}, {"y": y}, measures=MEASURES)
    compare(nets[0], nets[1], torch.randn(40, 8), "0", MEASURES)
    compare_many(dict(zip("abc", nets, strict=True)), torch.randn(40, 8), "0", [CKA(), Procrustes()])
    assert max(sizes) == 40 * 40


def test_equal_models_are_equal_and_faults_stay_visible() -> None:
    x, _ = arrays()
    for row in compare({"x": x}, {"x": x.clone()}).to_pylist():
        assert row["dissimilarity"] == 0
    x[3, 5], x[3, 7], x[9, 0] = torch.nan, torch.inf, torch.nan
    (row,) = compare({"x": x}, {"x": x}, measures=[CKA()]).to_pylist()
    assert row["note"].startswith("3 values at x are NaN or infinite, in sequences 3 and 9 of 40: leave them out")
    (row,) = compare({"x": torch.ones_like(x)}, {"x": x.nan_to_num()}, measures=[CKA()]).to_pylist()
    assert row["note"] == "zero variance at x"
