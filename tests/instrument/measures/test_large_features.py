"""Features of hundreds of times the spread of others, as first tokens of real models have them, in float32 and less."""

import math

import pytest
import torch
from torch import Tensor

from dissimilarity import CKA, AngularCKA, Bures, Procrustes, compare
from dissimilarity.functional import cka, procrustes
from dissimilarity.inference.calibration import calibrate
from dissimilarity.measures.numerics.rearranged_hsic import kernels_are_cheaper
from dissimilarity.probe.rearrangement import circles, following, rearranged
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


@pytest.mark.parametrize("change", [1.0, 0.1, 0.01])
def test_procrustes_of_normalized_rows_needs_no_singular_values(change: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer norm takes one dimension away: the square of the product then has an eigenvalue of pure rounding."""
    x, y = (torch.nn.functional.layer_norm(side, [D]) for side in near(1, 0, True, change, torch.float32))
    exact = compare({"s": x.double()}, {"s": y.double()}, measures=[Procrustes()], influence=True)
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    rows = compare({"s": x}, {"s": y}, measures=[Procrustes()], influence=True)
    angle = math.acos(procrustes_cosine(*(side.double().flatten(0, 1).numpy() for side in (x, y))))
    # A cosine of float32 samples rounds by up to 1e-7, more or less by processor, and an angle t by 1 / t times that.
    assert rows["value"][0].as_py() == pytest.approx(angle, abs=max(1e-6, 1e-7 / angle))
    for column in ("stderr", "null", "calibrated", "calibrated_stderr"):
        assert rows[column][0].as_py() == pytest.approx(exact[column][0].as_py(), rel=5e-3), column
    # Where processors have fast products of bfloat16, sides well apart have influences of those.
    assert rows["influence"][0].as_py() == pytest.approx(exact["influence"][0].as_py(), abs=5e-5)


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


@pytest.mark.parametrize("sink", [0, 30, 300])
@pytest.mark.parametrize("n_units", [None, 8])
def test_the_null_of_unequal_lengths_is_the_comparison_with_rearranged_samples(
    sink: float, n_units: int | None
) -> None:
    """And so is its error: sequences in all of its terms, also that of x with itself, are those that samples form."""
    lengths = torch.randint(6, 17, (16,), generator=generator(0))
    mask = torch.arange(16) < lengths[:, None]
    sides = []
    for seed in range(2):
        side = torch.randn(16, 16, 12, generator=generator(seed + 1), dtype=torch.float64)
        side[:, 0] += sink * 12**0.5 * torch.eye(12, dtype=torch.float64)[seed]
        sides.append(side)
    x, y = sides
    sequence, position = mask.nonzero().T
    moved = x.clone()
    order = rearranged(sequence, position, circles(lengths, 2))
    assert order is not None
    values = []
    for row in order.flip(0):  # ends with the first
        moved[mask] = x[mask][row]
        values.append(cka(moved[mask], y[mask], units=sequence).item())
    options = {"mask": mask, "n_units": n_units, "measures": [CKA()]}
    (actual,), (null,) = (compare({"s": side}, {"s": y}, **options).to_pylist() for side in (x, moved))
    assert actual["null"] == pytest.approx(null["value"], rel=1e-9)
    of_value, of_null = (torch.tensor(row["influence"], dtype=torch.float64) for row in (actual, null))
    expected = calibrate(actual["value"], torch.tensor([null["value"]]), 1.0, of_value, of_null)
    assert expected is not None
    assert actual["calibrated_stderr"] == pytest.approx(expected.stderr, rel=5e-3)
    (several,) = compare({"s": x}, {"s": y}, **options, nulls=2).to_pylist()
    assert several["null"] == pytest.approx(sum(values) / 2, rel=1e-9)


def test_the_error_of_a_null_of_unequal_lengths_is_its_spread_beside_first_tokens() -> None:
    lengths = torch.randint(6, 17, (16,), generator=generator(0))
    mask = torch.arange(16) < lengths[:, None]
    draws: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for draw in range(24):
        x, y = (torch.randn(16, 16, 8, generator=generator(2 * draw + side), dtype=torch.float64) for side in (0, 1))
        for axis, (sites, side) in enumerate(zip(draws, (x, (x + y) / 2), strict=True)):
            side[:, 0] = 100 * torch.eye(8, dtype=torch.float64)[axis]
            sites[f"draw {draw}"] = side
    table = compare(*draws, measures=[CKA()], mask=mask, pairs="matched")
    calibrated, errors = (torch.tensor(table[name].to_pylist()) for name in ("calibrated", "calibrated_stderr"))
    assert 0.4 < calibrated.std() / errors.mean() < 1.2
