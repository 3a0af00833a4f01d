"""Cross-fitted values: against numpy, around planted truths, and with error bars that cover."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dissimilarity import CCA, CKA, PWCCA, SVCCA, Bures, LinearRegression, Procrustes, compare
from dissimilarity.functional import bures, cca, linear_regression, procrustes, pwcca, svcca
from tests.helpers.crossfit_oracles import SCORES, cross_fitted
from tests.helpers.found_measures import make
from tests.helpers.oracles import Array

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "procrustes_crossfit": (Procrustes, procrustes, {}),
    "procrustes_squared_crossfit": (Procrustes, procrustes, {"kind": "squared"}),
    "bures_crossfit": (Bures, bures, {}),
    "cca_crossfit": (CCA, cca, {}),
    "cca_mean_square_crossfit": (CCA, cca, {"reduction": "mean_square"}),
    "cca_r2_crossfit": (CCA, cca, {"reduction": "r2"}),
    "svcca_crossfit": (SVCCA, svcca, {}),
    "pwcca_crossfit": (PWCCA, pwcca, {}),
    "linear_regression_crossfit": (LinearRegression, linear_regression, {}),
}
SPREAD = ["procrustes_crossfit", "cca_crossfit", "pwcca_crossfit", "linear_regression_crossfit"]
SEQUENCES, LENGTH = 32, 16


def planted(relation: str, spectrum: str, d: int, seed: int, sequences: int = SEQUENCES) -> tuple[Array, Array]:
    """Return two sides (sequences * LENGTH, d) of a known relation; tokens share a tenth with their sequence."""
    rng = np.random.default_rng(seed)

    def draw() -> Array:
        shared, separate = rng.normal(size=(sequences, 1, d)), rng.normal(size=(sequences, LENGTH, d))
        return (0.1**0.5 * shared + 0.9**0.5 * separate).reshape(-1, d)

    x, other = draw(), draw()
    share = correlations_of(relation, d)
    y = share * x + np.sqrt(1 - share**2) * other
    scale = np.sqrt(variances(spectrum, d))
    return x * scale, y * scale @ np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0]


def correlations_of(relation: str, d: int) -> Array:
    return {"independent": np.zeros(d), "half": np.arange(d) % 2 * 1.0, "near": np.full(d, 0.95**0.5)}[relation]


def variances(spectrum: str, d: int) -> Array:
    return np.ones(d) if spectrum == "flat" else 1 / np.arange(1, d + 1)


def truth(setting: str, relation: str, spectrum: str, d: int) -> float:
    """Return the value of infinitely many samples."""
    rho, variance = correlations_of(relation, d), variances(spectrum, d)
    cosine = float(np.average(rho, weights=variance))
    return {
        "procrustes": math.acos(cosine),
        "bures": cosine,
        "cca": float(rho.mean()),
        "svcca": float(rho.mean()),
        "linear_regression": float(np.average(rho**2, weights=variance)),
    }[setting]


def units() -> NDArray[np.int64]:
    return np.arange(SEQUENCES * LENGTH) // LENGTH


@pytest.mark.parametrize("label", SCORES)
def test_values_are_those_of_the_definition(label: str) -> None:
    """For more columns of x than of y, off the origin, and for sequences whose samples are in any order."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 12)) * np.linspace(1, 0.2, 12) + 5
    y = x[:, :7] @ rng.normal(size=(7, 7)) + rng.normal(size=(400, 7))
    unit = rng.integers(0, 19, 400)
    kind, function, options = KINDS[label]
    assert kind(**options, crossfit=True).label == label
    assert function(x, y, **options, crossfit=True).item() == pytest.approx(cross_fitted(label, x, y), abs=1e-10)
    value = function(x, y, **options, crossfit=True, units=unit).item()
    assert value == pytest.approx(cross_fitted(label, x, y, unit), abs=1e-10)


@pytest.mark.parametrize("spectrum", ["flat", "decaying"])
@pytest.mark.parametrize("relation", ["independent", "half", "near"])
def test_the_truth_lies_between_the_plug_in_and_the_cross_fitted_value(relation: str, spectrum: str) -> None:
    """Up to the error of the cross-fitted value, which may be unbiased."""
    d, repeats = 24, 4
    draws = [planted(relation, spectrum, d, seed) for seed in range(repeats)]
    for name in ("procrustes", "bures", "cca", "linear_regression"):
        plug_in, fitted = make(name), make(f"{name}_crossfit")
        expected = truth(name, relation, spectrum, d)
        values = np.array([[measure.value(x, y).item() for measure in (plug_in, fitted)] for x, y in draws])
        (near, far), error = values.mean(0), values.std(0).max() / repeats**0.5
        sign = 1 if plug_in.higher_is_more_similar else -1
        assert sign * (near - expected) > 0
        assert sign * (expected - far) > -3 * error


def test_few_samples_per_dimension_are_noted_at_the_plug_in_value_and_what_to_do() -> None:
    x, y = (torch.from_numpy(z) for z in planted("half", "flat", 26, 0, sequences=16))
    acts = [{"s": z.unflatten(0, (16, LENGTH))} for z in (x, y)]
    measures = [kind(**options, crossfit=crossfit) for kind, _, options in KINDS.values() for crossfit in (False, True)]
    for row in compare(acts[0], acts[1], measures=[*measures, CKA()]).to_pylist():
        is_plug_in = not row["measure"].endswith("crossfit") and row["measure"] != "cka"
        assert math.isfinite(row["value"]) and math.isfinite(row["stderr"])
        few = "256 samples are fewer than 10 for each of 26 dimensions"
        words = f"{few}, so pass more samples, or compare cross-fitted values"
        assert words in row["note"] if is_plug_in else row["note"] == ""
    enough = [{"s": z[..., :20]} for z in (acts[0]["s"], acts[1]["s"])]
    assert set(compare(enough[0], enough[1], measures=measures)["note"].to_pylist()) == {""}


CANONICAL = [(CCA, cca, {}), (SVCCA, svcca, {"variance": 1 - 1e-9}), (PWCCA, pwcca, {})]


@pytest.mark.parametrize(("p", "q"), [(12, 12), (20, 4), (4, 20), (1, 23)])
@pytest.mark.parametrize(("kind", "function", "options"), CANONICAL)
def test_halves_in_which_spans_meet_whatever_the_data_are_refused(
    kind: Any, function: Any, options: dict[str, Any], p: int, q: int
) -> None:
    """Noise has a canonical correlation of 1 in a half from rank_x + rank_y = samples on, by numpy too."""
    rng = np.random.default_rng(p)
    x, y, unit = rng.normal(size=(48, p)), rng.normal(size=(48, q)), np.arange(48) // 3
    message = f"a half of 24 samples does not determine a map of {p} directions to {q}, which needs at least 25"
    rank_deficient = np.c_[x, x[:, :1]], np.c_[y, y[:, :1]]
    for sides in ((x, y), rank_deficient):
        metric, streamed = kind(**options, crossfit=True), kind(**options, crossfit=True)
        for rows in (slice(0, 7), slice(7, 30), slice(30, 48)):
            streamed.update(*(side[rows] for side in sides))
        refused = [
            lambda: function(*sides, **options, crossfit=True),  # noqa: B023
            lambda: function(*sides, **options, crossfit=True, units=unit),  # noqa: B023
            lambda: metric.value(*sides),  # noqa: B023
            streamed.compute,
        ]
        for call in refused:
            with pytest.raises(ValueError, match=message):
                call()
        acts = [{"s": torch.from_numpy(side).unflatten(0, (16, 3))} for side in sides]
        for n_units in (None, 8):
            (row,) = compare(acts[0], acts[1], measures=[kind(**options, crossfit=True)], n_units=n_units).to_pylist()
            assert math.isnan(row["value"]) and message in row["note"]
    first = [np.linalg.qr(side[::2] - side[::2].mean(0))[0] for side in (x, y)]
    assert np.linalg.svd(first[0].T @ first[1])[1][0] == pytest.approx(1, abs=1e-12)
    assert math.isfinite(function(x, y[:, 1:], **options, crossfit=True).item())  # one dimension fewer


def test_a_half_that_determines_no_map_is_a_note_or_an_error() -> None:
    x, y = (torch.from_numpy(z) for z in planted("half", "flat", 40, 0, sequences=4))
    acts = [{"s": z.unflatten(0, (4, LENGTH))} for z in (x, y)]
    measures = [CCA(crossfit=True), LinearRegression(crossfit=True), Procrustes(crossfit=True)]
    for row in compare(acts[0], acts[1], measures=measures).to_pylist():
        other = {"cca_crossfit": 31, "linear_regression_crossfit": 1}.get(row["measure"])
        assert math.isnan(row["value"]) == (other is not None)
        assert (f"a half of 32 samples does not determine a map of 31 directions to {other}" in row["note"]) == bool(
            other
        )
    with pytest.raises(ValueError, match="at least 2 units, found 1"):
        procrustes(x, y, crossfit=True, units=[0] * 64)
    (row,) = compare(acts[0], acts[1], measures=[Procrustes(crossfit=True)], n_units=1).to_pylist()
    assert math.isnan(row["value"]) and "2 units" in row["note"]


@pytest.mark.parametrize("relation", ["independent", "half", "near"])
def test_error_bars_are_the_spread_over_fresh_samples(relation: str) -> None:
    """Not far below it where the map is noise, not far above where it is known (a jackknife is at 2 in the former)."""
    measures = [kind(**KINDS[label][2], crossfit=True) for label, (kind, _, _) in KINDS.items() if label in SPREAD]
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(60):
        acts = [{"s": torch.from_numpy(z).unflatten(0, (16, LENGTH))} for z in planted(relation, "flat", 8, seed, 16)]
        for row in compare(acts[0], acts[1], measures=measures, null=False).to_pylist():
            results.setdefault(row["measure"], []).append((row["value"], row["stderr"]))
    assert len(results) == len(SPREAD)
    for pairs in results.values():
        value, stderr = np.array(pairs).T
        assert 0.75 < stderr.mean() / value.std() < 1.6


def test_few_units_have_no_error_bar_and_say_so() -> None:
    """With two units the influences are zero, with three half of what they should be."""
    acts = [{"s": torch.from_numpy(z).unflatten(0, (24, -1))} for z in planted("half", "flat", 10, 0, sequences=24)]
    for n_units in (2, 3, 7, 8):
        (row,) = compare(acts[0], acts[1], measures=[Procrustes(crossfit=True)], n_units=n_units).to_pylist()
        note = f"has no standard error: a cross-fitted value needs 8 units and has {n_units}: pass more sequences"
        assert math.isfinite(row["value"]) and math.isnan(row["stderr"]) == (note in row["note"]) == (n_units < 8)
    (row,) = compare(acts[0], acts[1], measures=[Procrustes(crossfit=True)], nulls=9).to_pylist()
    assert math.isnan(row["p"]) and "has the null of one rearrangement, and so no p" in row["note"]
