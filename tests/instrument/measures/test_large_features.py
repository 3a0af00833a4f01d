"""Features of hundreds of times the spread of others, as first tokens of real models have them, in float32 and less."""

import math

import pytest
import torch
from torch import Tensor

from dissimilarity import CKA, AngularCKA, Bures, Procrustes, compare
from dissimilarity.functional import cka, procrustes
from dissimilarity.measures.numerics.rearranged_hsic import kernels_are_cheaper
from dissimilarity.probe.rearrangement import circles, following
from tests.helpers.found_measures import generator
from tests.helpers.oracles import procrustes_cosine

S, T, D = 24, 32, 64


def near(power: float, sink: float, dense: bool, change: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw two models that differ by a share of their spread, with a spectrum of i^-power and a first token apart."""

    def draw(seed: int) -> Tensor:
        return torch.randn(S, T, D, generator=generator(seed), dtype=torch.float64) * scale

    scale = torch.arange(1, D + 1, dtype=torch.float64) ** (-power / 2)
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator(2), dtype=torch.float64)).Q
    along = turn[0] if dense else torch.eye(D, dtype=torch.float64)[5]
    x = draw(0) @ turn
    size = 1 + 0.02 * torch.randn(S, 1, generator=generator(3), dtype=torch.float64)
    x[:, 0] += sink * size * along
    return x.to(dtype), (x + change * draw(1) @ turn).to(dtype)


@pytest.mark.parametrize(
    ("power", "sink", "dense", "change"),
    [(2, 1000, False, 0.03), (2, 3000, False, 0.3), (1, 1000, True, 0.1), (1, 300, False, 0.01), (6, 0, False, 0.03)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_procrustes_is_that_of_the_samples_with_its_errors(
    power: float, sink: float, dense: bool, change: float, dtype: torch.dtype
) -> None:
    x, y = near(power, sink, dense, change, dtype)
    exact = compare({"s": x.double()}, {"s": y.double()}, measures=[Procrustes(), Bures()], influence=True)
    rows = compare({"s": x}, {"s": y}, measures=[Procrustes(), Bures()], influence=True)
    cosine = procrustes_cosine(*(side.double().flatten(0, 1).numpy() for side in (x, y)))
    for row, expected in zip(rows.to_pylist(), exact.to_pylist(), strict=True):
        angle = math.acos(cosine) if row["measure"] == "procrustes" else cosine
        assert row["value"] == pytest.approx(angle, rel=2e-3)
        for column, tolerance in (("stderr", 0.02), ("calibrated", 2e-3), ("calibrated_stderr", 0.05)):
            assert row[column] == pytest.approx(expected[column], rel=tolerance), column
        influences = torch.tensor([row["influence"], expected["influence"]])
        assert torch.corrcoef(influences)[0, 1] > 0.99
    assert procrustes(x.flatten(0, 1), y.flatten(0, 1)).item() == pytest.approx(rows["value"][0].as_py(), rel=1e-3)


@pytest.mark.parametrize("sink", [30, 100, 300])
def test_the_null_of_a_first_token_that_all_sequences_share(sink: float) -> None:
    """Unrelated models then look nearly identical to CKA, and what is left of 1 - null decides p and calibrated."""
    sequences, length, width, nulls = 12, 8, 160, 39
    assert kernels_are_cheaper(sequences, length, (width, width), nulls)
    sides = []
    for seed in range(2):
        x = torch.randn(sequences, length, width, generator=generator(seed), dtype=torch.float64)
        x[:, 0] = 0
        x[:, 0, 5 + seed] = sink * width**0.5
        sides.append(x.float())
    x, y = (side.double() for side in sides)
    units = torch.arange(sequences).repeat_interleave(length)
    orders = following(circles(torch.ones(sequences, dtype=torch.int64), nulls))
    values = torch.stack([cka(x[order].flatten(0, 1), y.flatten(0, 1), units=units) for order in orders])
    rows = compare({"s": sides[0]}, {"s": sides[1]}, measures=[CKA(), AngularCKA()], nulls=nulls).to_pylist()
    for row, expected in zip(rows, (values, values.acos()), strict=True):
        assert row["null"] == pytest.approx(expected.mean().item(), rel=1e-9 if row["measure"] == "cka" else 1e-4)
        assert row["null_sd"] == pytest.approx(expected.std().item(), rel=1e-3)


@pytest.mark.parametrize("sink", [30, 300])
@pytest.mark.parametrize("change", [0.05, 1.0])
def test_cross_fitted_rotations_turn_what_lies_beside_a_first_token(sink: float, change: float) -> None:
    x, y = near(1, sink, False, change, torch.float32)
    measures = [Procrustes(crossfit=True), Bures(crossfit=True)]
    rows = compare({"s": x}, {"s": y}, measures=measures).to_pylist()
    exact = compare({"s": x.double()}, {"s": y.double()}, measures=measures).to_pylist()
    for row, expected in zip(rows, exact, strict=True):
        assert row["value"] == pytest.approx(expected["value"], rel=1e-3)
        assert row["calibrated"] == pytest.approx(expected["calibrated"], abs=2e-3)
