"""The numbers of study=scaling from tables whose answer is known."""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from dissimilarity.figures.figure import PaperFigure
from dissimilarity.inference.coverage import SEEDS
from studies.scaling.figures import figures, name_points
from studies.scaling.numbers import Findings, findings
from studies.scaling.sizes import SizedModel
from studies.scaling.text import summary, terminal_tables
from tests.helpers.drawn import misprints
from tests.helpers.intervals import check_figures, sentences_in, sentences_of

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
    return findings(table(models(), by_ratio, ("none", "some")), models(), "cka")


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
            assert pair.excess[key].mean == pytest.approx(0.05 * pair.doublings / (1 - FLOOR))
    assert only(grown, "w32 d6", "w64 d6").kind == "width" and only(grown, "w32 d6", "w64 d6").doublings == 2
    assert only(grown, "w32 d2", "w32 d6").kind == "depth" and only(grown, "w32 d2", "w64 d6").kind == "both"
    assert grown.growth["none", "cka", "dissimilarity", "width"].mean == pytest.approx(0.05 / (1 - FLOOR))
    assert grown.with_ratio["none", "cka"] == pytest.approx(1)
    assert grown.null["none", "cka"] == pytest.approx(0.8)


def test_blocks_are_found_in_the_maps_of_models_with_themselves(grown: Findings) -> None:
    assert grown.blocks["w64 d6"] == {"first": range(0, 2), "middle": range(2, 5), "last": range(5, 6)}
    assert grown.blocks["w32 d2"] == {"first": range(0, 1), "last": range(1, 2)}
    assert grown.maps["none", "cka", "w32 d2", "w64 d6"].shape == (2, 6)
    middle = ("none", "cka", "dissimilarity", "middle")
    assert math.isnan(only(grown, "w32 d2", "w64 d6").values[middle].mean), "two layers have no middle block"
    assert only(grown, "w32 d6", "w64 d6").values[middle].mean == pytest.approx(FLOOR + 0.1)


def test_a_narrow_model_that_shows_less_to_everyone_has_no_excess() -> None:
    """Similarities are products of one factor per model, as those of random projections of one representation."""
    shown = {32: 0.5, 64: 0.7, 128: 0.9}
    sized = models(5, ((32, 1), (64, 1), (128, 1)), orders=False)
    result = findings(table(sized, lambda a, b: 1 - shown[a.width] * shown[b.width]), sized, "cka")
    for pair in result.between:
        if pair.kind != "seed":
            assert pair.excess["none", "cka", "dissimilarity", "all"].mean == pytest.approx(0, abs=1e-12)
    assert result.growth["none", "cka", "dissimilarity", "width"].verdict == "open" and result.above == []


def test_intervals_are_over_models_because_pairs_share_them() -> None:
    """Each model moves all its pairs: the interval is that of Welch's test over models, not that of 25 pairs."""
    rng = np.random.default_rng(0)
    sized = models(5, ((32, 1), (64, 1)), orders=False)
    effects = {model.label: float(rng.normal(0, 0.05)) for model in sized}
    result = findings(table(sized, lambda a, b: 0.4 + effects[a.label] + effects[b.label]), sized, "cka")
    interval = only(result, "w32 d1", "w64 d1").values["none", "cka", "dissimilarity", "all"]
    small, large = ([effects[model.label] for model in sized if model.width == width] for width in (32, 64))
    welch = stats.ttest_ind(small, [-value for value in large], equal_var=False).confidence_interval()
    assert (interval.low - 0.4, interval.high - 0.4) == pytest.approx(welch)
    four = [model for model in sized if not model.label.endswith("4")]
    alone = only(findings(table(four, by_ratio), four, "cka"), "w32 d1", "w64 d1").excess[
        "none", "cka", "dissimilarity", "all"
    ]
    assert math.isfinite(alone.mean) and math.isnan(alone.low) and alone.models == 4


def test_the_primary_measure_and_block_are_what_the_answer_is_about(grown: Findings) -> None:
    rows = table(models(5), by_ratio).to_pylist()
    others = [{**row, "measure": "rsa", "dissimilarity": 0.5} for row in rows]
    result = findings(pa.Table.from_pylist(rows + others), models(5), "rsa", "first")
    assert result.measures == ["rsa", "cka"] and "By rsa, the sizes that differ most" in summary(result, NOTES)
    assert "in the first block" in summary(result, NOTES)
    assert "rsa is the primary measure; cka and single layers are exploratory" in summary(result, NOTES)


def test_models_with_the_same_data_order_are_not_a_pair_of_sizes() -> None:
    def distance(a: SizedModel, b: SizedModel) -> float:
        return FLOOR if a.data_order != b.data_order else 0.0

    result = findings(table(models(), distance), models(), "cka")
    assert not result.same_data_order
    for pair in result.between:
        assert pair.values["none", "cka", "dissimilarity", "all"].mean == pytest.approx(FLOOR)
    alone = findings(table(models(1), distance), models(1), "cka")
    assert (
        alone.same_data_order
        and only(alone, "w32 d6", "w64 d6").values["none", "cka", "dissimilarity", "all"].mean == 0
    )


def test_one_model_per_size_has_no_floor_and_no_interval() -> None:
    sized = models(1, orders=False)
    result = findings(table(sized, by_ratio), sized, "cka")
    assert not any(pair.excess for pair in result.between)
    distance = only(result, "w32 d6", "w64 d6").values["none", "cka", "dissimilarity", "all"]
    assert distance.mean == pytest.approx(0.3) and math.isnan(distance.low) and math.isnan(distance.high)
    text = summary(result, NOTES)
    assert "There is one model per size, so the effect of the seed alone is unknown" in text
    figures(result, table(sized, by_ratio))


def test_the_summary_says_what_was_planted(grown: Findings) -> None:
    text = summary(grown, NOTES)
    assert sentences_in(text) == [SEEDS]
    assert "By cka, the sizes that differ most are w32 d2 and w128 d6" in text
    assert "+0.062 for each doubling of the blocks' parameters (3 seeds: no interval)" in text
    assert "For width alone the excess has no verdict" in text
    assert "| w64 d6 | 0-1 | 2-4 | 5 |" in text
    assert "skip_first=1" in text
    (shown,) = terminal_tables(grown)
    assert shown.row_count == 10


def test_sizes_of_one_loss_are_named_beside_each_other() -> None:
    figure = PaperFigure(figsize=(3, 2), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1])
    name_points(figure, panel, {f"w{width} d2": (0.5, 0.5) for width in (16, 32, 64, 128)})
    assert len(panel.texts) == 4 and not misprints(figure)


def test_there_is_a_map_of_every_two_sizes(grown: Findings) -> None:
    drawn = figures(grown, table(models(), by_ratio))
    check_figures(drawn.values())
    assert not [line for figure in drawn.values() for line in misprints(figure)]
    assert sentences_of(drawn["sizes"]) == [SEEDS]
    assert set(drawn) == {"heatmaps_cka", "heatmaps_cka_some", "sizes", "regions", "losses", "models"}
    # Four sizes give the triangle with its diagonal, a column of models with themselves, and the color bar.
    assert len(drawn["heatmaps_cka"].axes) == 10 + 4 + 1
