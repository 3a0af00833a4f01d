"""The numbers of study=scaling from tables whose answer is known."""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from studies.scaling.figures import figures
from studies.scaling.numbers import Findings, findings
from studies.scaling.sizes import SizedModel
from studies.scaling.text import summary, terminal_tables

SHAPES = ((32, 2), (32, 6), (64, 6), (128, 6))
NOTES = {"probe": {"sequences": 8, "length": 16, "split": "val"}, "controls": {"none": {}, "some": {"skip_first": 1}}}
FLOOR = 0.2


def models(seeds: int = 3, shapes: Any = SHAPES, orders: bool = True) -> list[SizedModel]:
    return [
        SizedModel(
            f"w{width}d{depth}s{seed}",
            "gelu",
            width,
            depth,
            seed if orders else None,
            5 - depth / 10 - width / 500,
            0.1,
        )
        for width, depth in shapes
        for seed in range(seeds)
    ]


def table(
    sized: list[SizedModel], distance: Callable[[SizedModel, SizedModel], float], controls: tuple[str, ...] = ("none",)
) -> pa.Table:
    """Return rows of every two models, with one distance at all layers; models with themselves have planted blocks."""
    rows: list[dict[str, Any]] = []
    for control in controls:
        for a, b in combinations_with_replacement(sized, 2):
            for i in range(a.depth):
                for j in range(b.depth):
                    same = (i >= a.depth - 1) == (j >= b.depth - 1) and (i < 2) == (j < 2)
                    far = (0.0 if i == j else 0.1 if same else 0.8) if a is b else distance(a, b)
                    rows.append(
                        {
                            "control": control,
                            "model_a": a.label,
                            "model_b": b.label,
                            "measure": "cka",
                            "site_a": f"blocks.{i}.resid_post",
                            "site_b": f"blocks.{j}.resid_post",
                            "value": 1 - far,
                            "dissimilarity": far,
                            "stderr": 0.01,
                            "null": 0.2,
                            "calibrated": (0.8 - far) / 0.8,
                            "n_samples": 99,
                            "note": "",
                        }
                    )
    return pa.Table.from_pylist(rows)


def by_ratio(a: SizedModel, b: SizedModel) -> float:
    """Return the floor, plus 0.05 for each doubling of the blocks' parameters."""
    return FLOOR + 0.05 * abs(math.log2(b.parameters / a.parameters))


@pytest.fixture(scope="module")
def grown() -> Findings:
    return findings(table(models(), by_ratio, ("none", "some")), models())


def only(findings: Findings, first: str, second: str) -> Any:
    (one,) = [difference for difference in findings.between if difference.sizes == (first, second)]
    return one


def test_what_sizes_differ_by_is_what_was_planted(grown: Findings) -> None:
    assert list(grown.sizes) == ["w32 d2", "w32 d6", "w64 d6", "w128 d6"]
    key = ("none", "cka", "dissimilarity", "all")
    for pair in grown.between:
        assert pair.values[key].mean == pytest.approx(FLOOR + 0.05 * pair.doublings)
        assert pair.values["none", "cka", "relative", "all"].mean == pytest.approx(
            (FLOOR + 0.05 * pair.doublings) / 0.8
        )
        if pair.kind != "seed":
            assert pair.excess[key].mean == pytest.approx(0.05 * pair.doublings)
    assert only(grown, "w32 d6", "w64 d6").kind == "width" and only(grown, "w32 d6", "w64 d6").doublings == 2
    assert only(grown, "w32 d2", "w32 d6").kind == "depth" and only(grown, "w32 d2", "w64 d6").kind == "both"
    assert grown.growth["none", "cka", "dissimilarity", "width"].mean == pytest.approx(0.05)
    assert grown.with_ratio["none", "cka"].mean == pytest.approx(1)
    assert grown.null["none", "cka"] == pytest.approx(0.8)


def test_blocks_are_found_in_the_maps_of_models_with_themselves(grown: Findings) -> None:
    assert grown.blocks["w64 d6"] == {"first": range(0, 2), "middle": range(2, 5), "last": range(5, 6)}
    assert grown.blocks["w32 d2"] == {"first": range(0, 1), "last": range(1, 2)}
    assert grown.maps["none", "cka", "w32 d2", "w64 d6"].shape == (2, 6)
    middle = ("none", "cka", "dissimilarity", "middle")
    assert math.isnan(only(grown, "w32 d2", "w64 d6").values[middle].mean), "two layers have no middle block"
    assert only(grown, "w32 d6", "w64 d6").values[middle].mean == pytest.approx(FLOOR + 0.1)


def test_without_an_effect_of_size_intervals_contain_zero() -> None:
    def chance(a: SizedModel, b: SizedModel) -> float:
        return FLOOR + effects[a.label] + effects[b.label] + float(rng.normal(0, 0.01))

    sized, verdicts, slopes = models(6, ((32, 1), (64, 1), (128, 1))), [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        effects = {model.label: float(rng.normal(0, 0.02)) for model in sized}
        result = findings(table(sized, chance), sized)
        key = ("none", "cka", "dissimilarity", "all")
        verdicts += [pair.excess[key].verdict for pair in result.between if key in pair.excess]
        slopes.append(result.growth["none", "cka", "dissimilarity", "width"].verdict)
    assert verdicts.count("open") >= 0.75 * len(verdicts) and slopes.count("open") >= 6


def test_intervals_are_over_models_because_pairs_share_them() -> None:
    """One odd model of three moves all its pairs: its draw decides, and the interval is wide."""

    def distance(a: SizedModel, b: SizedModel) -> float:
        return FLOOR + 0.3 * ((a.label == "w32d1s0") + (b.label == "w32d1s0"))

    sized = models(3, ((32, 1), (64, 1)), orders=False)
    one = only(findings(table(sized, distance), sized), "w32 d1", "w64 d1")
    interval = one.values["none", "cka", "dissimilarity", "all"]
    assert interval.mean == pytest.approx(FLOOR + 0.1)
    assert interval.low == pytest.approx(FLOOR) and interval.high == pytest.approx(FLOOR + 0.2)


def test_models_with_the_same_data_order_are_not_a_pair_of_sizes() -> None:
    def distance(a: SizedModel, b: SizedModel) -> float:
        return FLOOR if a.data_order != b.data_order else 0.0

    result = findings(table(models(), distance), models())
    assert not result.same_data_order
    for pair in result.between:
        assert pair.values["none", "cka", "dissimilarity", "all"].mean == pytest.approx(FLOOR)
    alone = findings(table(models(1), distance), models(1))
    assert (
        alone.same_data_order
        and only(alone, "w32 d6", "w64 d6").values["none", "cka", "dissimilarity", "all"].mean == 0
    )


def test_one_model_per_size_has_no_floor_and_no_interval() -> None:
    sized = models(1, orders=False)
    result = findings(table(sized, by_ratio), sized)
    assert not any(pair.excess for pair in result.between)
    distance = only(result, "w32 d6", "w64 d6").values["none", "cka", "dissimilarity", "all"]
    assert distance.mean == pytest.approx(0.3) and math.isnan(distance.low) and math.isnan(distance.high)
    text = summary(result, NOTES)
    assert "There is one model per size, so the effect of the seed alone is unknown" in text
    figures(result, table(sized, by_ratio))


def test_the_summary_says_what_was_planted(grown: Findings) -> None:
    text = summary(grown, NOTES)
    assert "By cka, the sizes that differ most are w32 d2 and w128 d6" in text
    assert "For width alone the excess" in text and "+0.050 for each doubling of the blocks' parameters" in text
    assert "| w64 d6 | 0-1 | 2-4 | 5 |" in text
    assert "skip_first=1" in text
    (shown,) = terminal_tables(grown)
    assert shown.row_count == 10


def test_there_is_a_map_of_every_two_sizes(grown: Findings) -> None:
    drawn = figures(grown, table(models(), by_ratio))
    assert set(drawn) == {"heatmaps_cka", "heatmaps_cka_some", "sizes", "regions", "losses", "models"}
    # Four sizes give the triangle with its diagonal, a column of models with themselves, and the color bar.
    assert len(drawn["heatmaps_cka"].axes) == 10 + 4 + 1
