"""Error bars read stored samples once for all pairs and measures, and only those of the null in fast products."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from dissimilarity import CCA, CKA, AngularCKA, LinearRegression, Procrustes, compare
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.plan import make_plan
from dissimilarity.moments import products, second_pass, sequences, side
from dissimilarity.moments.side import Side
from dissimilarity.moments.stack import Stack
from dissimilarity.probe.probe_set import Extent, ProbeSet

SEQUENCES, LENGTH, WIDTH = 24, 16, 12


def activations(sites: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = SEQUENCES, LENGTH, WIDTH
    common = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    return {f"s{site}": (common + torch.randn(shape, generator=g).double()).to(dtype) for site in range(sites)}


def rows(dtype: torch.dtype, **options: Any) -> list[dict[str, Any]]:
    measures = [CKA(), AngularCKA(), Procrustes(), LinearRegression(), CCA()]
    return compare(activations(2, 1, dtype), activations(2, 2, dtype), measures=measures, **options).to_pylist()


def with_fast_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fast products of few samples too, on any processor."""
    monkeypatch.setattr(products, "MANY", 1)
    for place in ("moments.products", "measures.cka"):
        monkeypatch.setattr(f"dissimilarity.{place}.has_fast_bfloat16", lambda device: True)


@pytest.mark.parametrize("null", [False, True])
def test_chunks_are_read_as_often_for_many_pairs_as_for_one(null: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[set[str]] = []
    chunk = Side.chunk

    def counted(self: Side, acts: Any, *args: Any) -> Any:
        made.append(set(acts))
        return chunk(self, acts, *args)

    monkeypatch.setattr(Side, "chunk", counted)
    numbers = []
    for sites, measures in ((1, [CKA()]), (3, [CKA(), AngularCKA(), Procrustes(), CCA()])):
        made.clear()
        compare(activations(sites, 1), activations(sites, 2), measures=measures, null=null)
        numbers.append(len(made))
    assert numbers[0] == numbers[1] > 0


def test_fast_products_serve_nulls_and_error_bars_and_never_values(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, single = rows(torch.float64), rows(torch.float32)
    with_fast_products(monkeypatch)
    fast = rows(torch.float32)
    for row, same, expected in zip(fast, single, exact, strict=True):
        assert row["value"] == same["value"]
        assert row["null"] == pytest.approx(expected["null"], abs=2e-3)
        assert row["calibrated_stderr"] != same["calibrated_stderr"]
        assert row["calibrated_stderr"] == pytest.approx(expected["calibrated_stderr"], rel=2e-2)
        is_fast = "cka" in row["measure"] or "procrustes" in row["measure"]
        assert (row["stderr"] != same["stderr"]) == is_fast
        assert row["stderr"] == pytest.approx(expected["stderr"], rel=5e-3 if is_fast else 1e-4)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1])
def test_error_bars_near_one_are_those_of_exact_products(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cross term and the self terms have in common cancels near 1, and roundings would not."""
    x = activations(1, 1, torch.float32)
    y = {site: values + noise * torch.randn(values.shape) for site, values in x.items()}
    measures = [CKA(), Procrustes(), Procrustes(kind="squared")]
    expected = compare(x, y, measures=measures).to_pylist()
    with_fast_products(monkeypatch)
    for row, same in zip(compare(x, y, measures=measures).to_pylist(), expected, strict=True):
        assert (row["value"], row["stderr"]) == (same["value"], same["stderr"])
        assert (row["value"] > 0.8) == (row["measure"] == "cka")


def test_slopes_that_do_not_fit_in_memory_together_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    together = rows(torch.float64)
    monkeypatch.setattr("dissimilarity.comparison.estimates.SLOPES", WIDTH**2)
    for row, expected in zip(rows(torch.float64), together, strict=True):
        for column in ("value", "stderr", "calibrated_stderr"):
            assert row[column] == pytest.approx(expected[column], rel=1e-12)


def test_a_measure_that_fails_in_the_second_pass_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("a fault in the second pass")

    monkeypatch.setattr("dissimilarity.measures.numerics.leverage.Leverage.spread", broken)
    for row in rows(torch.float64):
        assert math.isnan(row["value"]) == (row["measure"] == "cca")
        assert ("a fault in the second pass" in row["note"]) == (row["measure"] == "cca")


@pytest.mark.parametrize(("pairs", "from_grams"), [("all", True), ("matched", False)])
def test_squares_take_the_products_of_samples_where_these_serve_many_pairs(
    pairs: Literal["all", "matched"], from_grams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 8 samples at 6 sites take more work than three products of 12 by 12 columns, and less than nine."""
    calls: list[str] = []

    def count(name: str) -> None:
        function = getattr(sequences, name)
        monkeypatch.setattr(f"dissimilarity.moments.chunk.{name}", lambda *args: calls.append(name) or function(*args))

    for name in ("within_grams", "squares_of_products"):
        count(name)
    x, y = ({site: part[:, :8] for site, part in activations(3, seed).items()} for seed in (1, 2))

    def rows_of_pairs() -> list[dict[str, Any]]:
        return compare(x, y, measures=[CKA(units="sample")], pairs=pairs, null=False).to_pylist()

    found = rows_of_pairs()
    # At each of 6 sites once for the terms with itself, and once for all pairs.
    assert calls.count("within_grams") == (12 if from_grams else 6)
    monkeypatch.setattr(second_pass, "_prefer_grams", lambda *args: not from_grams)
    for row, expected in zip(found, rows_of_pairs(), strict=True):
        assert row["stderr"] == pytest.approx(expected["stderr"], rel=1e-10)


def test_long_sequences_never_take_products_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be larger than the samples at its site, however many pairs it served."""
    monkeypatch.setattr("dissimilarity.moments.chunk.within_grams", lambda *args: pytest.fail("16 samples, 12 columns"))
    compare(activations(8, 1), activations(8, 2), measures=[CKA(units="sample"), CKA(debiased=False)])


@pytest.mark.parametrize("width", [6, WIDTH])
@pytest.mark.parametrize("scale", [1e-18, 1e-10, 1e9, 1e12])
def test_error_bars_do_not_depend_on_the_scale(scale: float, width: int) -> None:
    """Sums of fourth powers would leave the range of float32."""
    x, y = (
        {site: part[:, :8, :width] for site, part in activations(2, seed, torch.float32).items()} for seed in (1, 2)
    )
    measures = [CKA(), CKA(units="sample"), CKA(debiased=False)]
    scaled = {site: part * scale for site, part in x.items()}
    expected = compare(x, y, measures=measures).to_pylist()
    for row, same in zip(compare(scaled, y, measures=measures).to_pylist(), expected, strict=True):
        for column in ("value", "stderr", "null", "calibrated", "calibrated_stderr"):
            assert row[column] == pytest.approx(same[column], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("debiased", [True, False])
def test_the_error_bar_beside_a_massive_token_is_that_of_exact_products(debiased: bool) -> None:
    """Its sequence weighs more than all others, and without it little is left of sums of fourth powers."""
    x, y = activations(1, 1, torch.float32), activations(1, 2, torch.float32)
    for side_of in (x, y):
        side_of["s0"][3, 4] *= 10_000
    measure = CKA(units="sample", debiased=debiased)
    exact_x, exact_y = ({"s0": side_of["s0"].double()} for side_of in (x, y))
    (row,) = compare(x, y, measures=[measure]).to_pylist()
    (expected,) = compare(exact_x, exact_y, measures=[measure]).to_pylist()
    assert row["stderr"] == pytest.approx(expected["stderr"], rel=1e-2)


def test_activations_are_stored_for_error_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelActivations, "of_all", lambda *args: pytest.fail("no second pass is due"))
    compare(activations(1, 1), activations(1, 2), measures=[CKA()], n_units=1)


@pytest.mark.parametrize("cache", [2**26, 0])
def test_samples_are_read_again_with_what_followed_from_them(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at some of the sites; norms, sums and weights are computed again only where they do not fit the cache."""
    monkeypatch.setattr("dissimilarity.comparison.activations.CHUNK_CACHE", cache)
    plan = make_plan(ProbeSet(Extent(SEQUENCES, LENGTH)), [CKA()])
    acts = {site: samples + 9 for site, samples in activations(2, 1, torch.float32).items()}
    halves = [({site: part[half] for site, part in acts.items()}, range(1)) for half in (slice(0, 8), slice(8, None))]
    stored = ModelActivations(plan, ["s0", "s1"], halves)
    first = list(stored)
    norms = []
    monkeypatch.setattr(side, "squared_norms", lambda samples: norms.append(samples) or products.squared_norms(samples))
    for sites in (None, ["s1"]):
        for chunk, again in zip(first, stored.at(sites), strict=True):
            assert list(again.samples) == (sites or ["s0", "s1"])
            assert (again.units, again.members.places) == (chunk.units, chunk.members.places)
            for name in ("samples", "norms", "outlier_rows", "sums", "weights"):
                assert torch.equal(getattr(again, name)["s1"], getattr(chunk, name)["s1"])
    assert len(norms) == (0 if cache else 6)


def test_samples_along_a_vector_are_in_their_precision_and_outliers_in_float64() -> None:
    x = torch.randn(SEQUENCES, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    x[3, 5] *= 1e6
    plan = make_plan(ProbeSet(Extent(SEQUENCES, LENGTH)), [CKA()])
    stored = ModelActivations(plan, ["s"], [({"s": x}, range(plan.n_units))]).summed()
    # Derivatives may be beyond the range of float32.
    vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    vectors[1] *= 1e60
    stack = Stack(next(iter(stored.at())), ["s"])
    exact, product = stack.samples[0].double() @ vectors.mT, stack.along(vectors)
    outlier = 3 * LENGTH + 5
    assert stack.outlier_rows.nonzero().tolist() == [[outlier]]
    assert torch.allclose(product[outlier], exact[outlier], rtol=1e-12, atol=0)
    usual = torch.arange(len(exact)) != outlier
    sizes = stack.samples[0].double().norm(dim=1)[usual, None] * vectors.norm(dim=1)
    assert ((product - exact)[usual].abs() <= 1e-6 * sizes).all()
