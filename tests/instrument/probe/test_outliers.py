"""Outlier control: the artifact of shared massive tokens, what removes it, and the same samples on both sides."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dissimilarity import CKA, MutualKNN, compare
from dissimilarity.comparison.first_component import first_share
from dissimilarity.comparison.plan import make_plan
from dissimilarity.functional import cka
from dissimilarity.probe.outliers import Control, control_of, normalized, without_top_norms
from dissimilarity.probe.probe_set import Extent, ProbeSet
from tests.instrument.comparison.test_compare import LENGTH, model, tokens

SEQUENCES, POSITIONS, WIDTH = 16, 64, 64


def features(seed: int, outliers: Any = (), norm: float = 300.0) -> Tensor:
    """Draw independent Gaussian samples, with a massive direction of this model at some (sequence, position)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(SEQUENCES, POSITIONS, WIDTH, generator=generator)
    direction = torch.randn(WIDTH, generator=generator)
    for place in outliers:
        rows[place] += norm * direction / direction.norm()
    return rows


def row(x: Tensor, y: Tensor, **control: Any) -> dict[str, Any]:
    (record,) = compare({"s": x}, {"s": y}, measures=[CKA(units="sample")], control=Control(**control)).to_pylist()
    return record


@pytest.mark.parametrize(
    ("places", "control"),
    [
        ([(3, 17), (9, 40)], {"drop_top_norm": 1}),
        ([(3, 17), (9, 40)], {"normalize": "unit_norm"}),
        ([(3, 17), (9, 40)], {"normalize": "layer_norm"}),
        ([(3, 0), (9, 0)], {"skip_first": 1}),
        ([(3, 1), (9, 3)], {"every": 2}),
        ([(3, 0), (9, 40)], {"skip_first": 1, "drop_top_norm": 1}),
    ],
)
def test_two_shared_outliers_make_independent_features_alike_and_control_removes_that(
    places: Any, control: Any
) -> None:
    x, y = features(0, places), features(1, places)
    artifact, controlled = row(x, y), row(x, y, **control)
    assert abs(row(features(0), features(1))["value"]) < 0.02
    assert artifact["value"] > 0.95 and artifact["first_pc_a"] > 0.7
    assert abs(controlled["value"]) < 0.02 and controlled["first_pc_a"] < 0.05 and controlled["first_pc_b"] < 0.05


def test_a_control_that_misses_the_outliers_leaves_the_artifact() -> None:
    places = [(3, 17), (9, 40)]
    assert row(features(0, places), features(1, places), skip_first=1)["value"] > 0.95


def test_positions_are_dropped_for_the_norm_at_any_site_of_either_model() -> None:
    """Recomputed by loops, relative to each site's median."""
    a, b, far = features(0, [(2, 5)], 30), 1e-3 * features(1, [(2, 7), (4, 1)], 50), 1e4 * features(2)
    remaining = without_top_norms({"a": a.norm(dim=-1), "b": b.norm(dim=-1), "c": far.norm(dim=-1)}, 2)
    for sequence in range(SEQUENCES):
        score = [
            max(float(site[sequence, at].norm() / site.norm(dim=-1).median()) for site in (a, b, far))
            for at in range(POSITIONS)
        ]
        dropped = sorted(range(POSITIONS), key=lambda at: -score[at])[:2]
        assert remaining[sequence].tolist() == [at for at in range(POSITIONS) if at not in dropped]
    assert {5, 7} & set(remaining[2].tolist()) == set() and 1 not in remaining[4]


def test_samples_of_norm_zero_or_nan_have_an_order() -> None:
    norms = torch.zeros(1, 6)
    norms[0, 2], norms[0, 4] = 3, math.nan
    assert without_top_norms({"s": norms}, 2).tolist() == [[0, 1, 3, 5]]


def test_both_sides_and_all_sites_keep_the_same_samples() -> None:
    """Against the function on samples selected by hand, for models and for their saved activations."""
    a, b = model(16, 2, seed=0), model(24, 2, seed=1)
    from dissimilarity import capture

    saved: list[dict[str, Tensor]] = []
    for net in (a, b):
        with capture(net, "blocks.*.resid_post") as acts:
            net(tokens())
        saved.append({site: rows.double() for site, rows in acts.items()})
    control = Control(skip_first=1, every=2, drop_top_norm=1, normalize="unit_norm")
    allowed = list(range(1, LENGTH, 2))
    medians = [{site: rows[:, allowed].norm(dim=-1).median() for site, rows in side.items()} for side in saved]
    picked = []
    for sequence in range(len(tokens())):
        score = [
            max(
                float(rows[sequence, at].norm() / median[site])
                for side, median in zip(saved, medians, strict=True)
                for site, rows in side.items()
            )
            for at in allowed
        ]
        picked += [(sequence, at) for at in allowed if at != allowed[int(np.argmax(score))]]
    both: list[Any] = [(a, b, tokens()), (saved[0], saved[1])]
    for sides in both:
        for record in compare(*sides, measures=[CKA(units="sample")], control=control).to_pylist():
            x, y = (
                torch.stack([side[record[key]][place] for place in picked])
                for side, key in zip(saved, ("site_a", "site_b"), strict=True)
            )
            x, y = (rows / rows.norm(dim=-1, keepdim=True) for rows in (x, y))
            assert record["n_samples"] == len(picked) == len(tokens()) * 3
            assert record["value"] == pytest.approx(cka(x, y).item(), abs=1e-5)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_pooling_reads_the_positions_that_count_and_samples_are_scaled_after_it(pool: Any) -> None:
    x, y = features(0), features(1)
    control = Control(skip_first=2, every=3, normalize="layer_norm")
    (record,) = compare(
        {"s": x}, {"s": y}, measures=[CKA(units="sample")], pool=pool, control=control, n_units=4
    ).to_pylist()
    pooled = [(rows[:, 2::3].mean(1) if pool == "mean" else rows[:, 2::3][:, -1]).double() for rows in (x, y)]
    scaled = [(rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True) for rows in pooled]
    assert record["value"] == pytest.approx(cka(scaled[0], scaled[1]).item(), abs=1e-5)


def test_control_applies_to_the_subset_of_sample_measures() -> None:
    """Sample measures read their samples in a separate pass if more sequences are saved."""
    x, y = torch.randn(600, 3, 8), torch.randn(600, 3, 8)
    measures = [MutualKNN(max_samples=128, k=5), CKA(units="sample")]
    control = Control(drop_top_norm=1, normalize="unit_norm")
    both = compare({"s": x}, {"s": y}, measures=measures, control=control).to_pylist()
    norms = {"a": x.norm(dim=-1), "b": y.norm(dim=-1)}
    remaining = without_top_norms(norms, 1)[..., None]
    x, y = (rows.take_along_dim(remaining, 1) for rows in (x, y))
    x, y = (rows / rows.norm(dim=-1, keepdim=True) for rows in (x, y))
    by_hand = compare({"s": x}, {"s": y}, measures=measures).to_pylist()
    for record, expected in zip(both, by_hand, strict=True):
        assert record["value"] == pytest.approx(expected["value"], abs=1e-6)
        assert record["n_samples"] == expected["n_samples"]


def test_samples_are_normalized() -> None:
    rows = torch.randn(5, 7, 9, dtype=torch.float64)
    unit, layer = normalized(rows, "unit_norm"), normalized(rows, "layer_norm")
    expected = rows.numpy() - rows.numpy().mean(-1, keepdims=True)
    np.testing.assert_allclose(layer, expected / expected.std(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(unit, rows.numpy() / np.linalg.norm(rows, axis=-1, keepdims=True), rtol=1e-12)
    assert normalized(rows, "none") is rows
    flat = torch.tensor([[0.1, 0.1, 0.1], [0, 0, 0]])
    assert not normalized(flat, "layer_norm").any() and not normalized(flat[1:], "unit_norm").any()
    assert normalized(rows.bfloat16(), "unit_norm").dtype == torch.float32


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"skip_first": -1}, "expected control.skip_first >= 0, a whole number, found -1"),
        ({"every": 0}, "expected control.every >= 1, a whole number, found 0"),
        ({"drop_top_norm": 1.5}, "control.drop_top_norm >= 0, a whole number, found 1.5"),
        ({"normalize": "batch"}, "control.normalize=batch: expected one of none, layer_norm, unit_norm"),
        ({"skip_last": 1}, "control.skip_last: unknown key; expected skip_first"),
    ],
)
def test_invalid_controls_are_rejected(unchecked: None, control: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        control_of(control)


def test_a_control_that_leaves_nothing_is_rejected() -> None:
    with pytest.raises(ValueError, match="leave none of 64 positions"):
        row(features(0), features(1), skip_first=60, drop_top_norm=4)
    flat = {"s": torch.randn(30, 4)}
    with pytest.raises(ValueError, match="activations of shape .* have none"):
        compare(flat, flat, measures=[CKA(units="sample")], control=Control(skip_first=1))
    other = {"s": torch.randn(20, 4, 3), "t": torch.randn(20, 5, 3)}
    with pytest.raises(ValueError, match="the sites have different ones"):
        compare(other, other, measures=[CKA(units="sample")], control=Control(drop_top_norm=1))


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("measure", [CKA(units="sample"), MutualKNN(max_samples=100)])
def test_the_share_of_the_first_component_is_the_largest_eigenvalue_over_the_trace(width: int, measure: Any) -> None:
    rows = torch.randn(10, 40, width) * torch.linspace(1, 2, width) + 100
    side = make_plan(ProbeSet(Extent(10, 40), n_units=5), [measure]).side(["s"])
    side.add({"s": rows}, range(5))
    side.close()
    seen = rows.flatten(0, 1) if side.moments else side.samples["s"]
    values = np.linalg.eigvalsh(np.cov(seen.double().numpy().T))
    assert first_share(side, "s") == pytest.approx(values[-1] / values.sum(), rel=1e-5)


def test_a_site_that_cannot_be_compared_has_no_share() -> None:
    x = features(0)
    flat = torch.ones_like(x)
    assert math.isnan(row(x, flat)["first_pc_b"]) and row(x, flat)["first_pc_a"] > 0
