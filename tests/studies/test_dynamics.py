"""When layers arrive, from tables whose answer is known."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from dissimilarity.inference.coverage import CHECKPOINTS, SEEDS
from studies.dynamics.figures import figures
from studies.dynamics.numbers import Findings, findings, order, stays_below
from studies.dynamics.text import summary, terminal_tables
from tests.helpers.intervals import check_figures, sentences_in, sentences_of

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128]
LAYERS = 6
NOTES = {"probe": {"sequences": 8, "length": 16, "split": "val"}}


def position(layer: int, step: int, middle: list[int]) -> float:
    """Return the position of a layer on its way: half at its own step."""
    return float(1 / (1 + math.exp(-4 * (math.log2(1 + step) - math.log2(1 + middle[layer])))))


def table(middles: dict[str, list[int]]) -> tuple[pa.Table, dict[str, list[tuple[str, int]]]]:
    """Return checkpoints of runs whose layers go from one place to another; the runs' ends are 0.3 apart."""
    checkpoints = {run: [(f"{run}@{step}", step) for step in STEPS] for run in middles}
    every = [(run, label, step) for run, labels in checkpoints.items() for label, step in labels]
    rows: list[dict[str, Any]] = []
    for index, (run_a, a, step_a) in enumerate(every):
        for run_b, b, step_b in every[index + 1 :]:
            for layer in range(LAYERS):
                moved = position(layer, step_a, middles[run_a]) - position(layer, step_b, middles[run_b])
                far = abs(moved) if run_a == run_b else 0.3 + abs(moved)
                site = f"blocks.{layer}.resid_post"
                row = {"model_a": a, "model_b": b, "measure": "cka", "site_a": site, "site_b": site}
                rows.append({**row, "dissimilarity": far, "calibrated": 1 - far / 0.9})
    return pa.Table.from_pylist(rows), checkpoints


@pytest.fixture(scope="module")
def planted() -> Findings:
    return findings(*table({"up": [2, 4, 8, 16, 24, 32], "down": [32, 24, 16, 8, 4, 2]}), "cka")


def test_layers_that_freeze_earlier_below_have_a_correlation_of_one(planted: Findings) -> None:
    order = planted.orders["cka", "half"]
    assert order.rhos == pytest.approx({"up": 1, "down": -1})
    assert order.verdict == "no verdict" and order.delay.models == 2 and math.isnan(order.delay.low)
    arrivals = [layer.half for layer in planted.arrivals["cka", "up"]]
    np.testing.assert_allclose(arrivals, [2, 4, 8, 16, 24, 32], rtol=0.15)
    for layer in planted.arrivals["cka", "up"]:
        assert layer.bracket[0] <= layer.half <= layer.bracket[1]
        assert layer.start == pytest.approx(1, abs=0.01) and layer.null == pytest.approx(0.9) and layer.floor >= 0.3


def test_a_level_between_checkpoints_is_on_a_line_over_the_log_of_the_step() -> None:
    values, steps = np.array([1.0, 0.8, 0.2, 0.4, 0.0]), np.array([0, 1, 3, 7, 15])
    assert stays_below(values, steps, 0.5) == (pytest.approx(2**1.5 - 1), (1, 3))
    step, bracket = stays_below(values, steps, 0.3)
    assert bracket == (7, 15) and step == pytest.approx(8 * 2**0.25 - 1), "it came back above once more"
    assert stays_below(values, steps, 2.0) == (0, (0, 0))
    assert math.isnan(stays_below(values, steps, math.nan)[0]) and math.isnan(stays_below(values * 0, steps, 0)[0])


def test_the_order_is_the_t_test_of_slopes_over_runs() -> None:
    rng = np.random.default_rng(0)
    doublings = {f"r{run}": 1.0 + 0.5 * np.arange(6) + rng.normal(0, 0.4, 6) for run in range(5)}
    result = order({run: (2.0**steps - 1).tolist() for run, steps in doublings.items()})
    slopes = [float(stats.linregress(range(6), steps)[0]) for steps in doublings.values()]  # pyright: ignore
    assert result.delay.mean == pytest.approx(np.mean(slopes))
    assert result.delay.p == pytest.approx(stats.ttest_1samp(slopes, 0)[1])
    assert result.verdict == "bottom-up"
    assert order({run: list(reversed(steps)) for run, steps in doublings.items()}).verdict == "top-down"


def test_one_run_has_a_correlation_and_no_verdict_however_many_layers() -> None:
    alone = order({"a": list(range(1, 40))})
    assert alone.rhos["a"] == pytest.approx(1) and alone.verdict == "no verdict" and math.isnan(alone.delay.p)
    assert math.isnan(order({"a": [1, 1, 1, 1]}).rhos["a"]) and math.isnan(order({"a": [1, math.nan, 3]}).rhos["a"])


def test_the_floor_is_the_mean_over_the_other_runs() -> None:
    rows, checkpoints = table({run: [2, 4, 8, 16, 24, 32] for run in "abc"})
    last = rows.to_pylist()
    for row in last:
        if {row["model_a"], row["model_b"]} == {"a@128", "c@128"}:
            row["dissimilarity"] = 0.5
    result = findings(pa.Table.from_pylist(last), checkpoints, "cka")
    floors = {run: result.arrivals["cka", run][0].floor for run in "abc"}
    assert floors == pytest.approx({"a": 0.4, "b": 0.3, "c": 0.4})


def test_two_runs_have_a_map_of_one_with_the_other(planted: Findings) -> None:
    assert planted.maps["cka", "up", "up"].shape == (LAYERS, len(STEPS), len(STEPS))
    itself = planted.maps["cka", "up", "up"]
    np.testing.assert_array_equal(itself, itself.transpose(0, 2, 1))
    assert (itself[:, range(len(STEPS)), range(len(STEPS))] == 0).all()
    assert planted.maps["cka", "up", "down"][:, -1, -1] == pytest.approx(0.3, abs=0.06)
    alone = findings(*table({"up": [2, 4, 8, 16, 24, 32]}), "cka")
    assert list(alone.maps) == [("cka", "up", "up")]
    assert all(math.isnan(layer.floor) for layer in alone.arrivals["cka", "up"])


def test_the_summary_says_what_was_planted(planted: Findings) -> None:
    text = summary(planted, NOTES)
    assert sentences_in(text) == [CHECKPOINTS]  # two runs have no interval
    assert "Nothing is claimed about the order of the layers (2 seeds: no interval)" in text
    assert (
        "In up (rank correlation +1.00) layer 0 is the first to be halfway, at step 2, and layer 5 the last, at step 3"
        in text
    )
    (shown,) = terminal_tables(planted)
    assert shown.row_count == 2
    middles = [
        [2, 4, 8, 16, 24, 32],
        [2, 6, 8, 12, 24, 32],
        [4, 5, 8, 16, 20, 30],
        [2, 4, 6, 12, 24, 40],
        [1, 3, 8, 16, 32, 40],
    ]
    five = findings(*table(dict(zip("abcde", middles, strict=True))), "cka")
    assert "The layers reach their final form bottom-up, lower layers first: by cka, the delay" in summary(five, NOTES)
    assert sentences_in(summary(five, NOTES)) == [SEEDS, CHECKPOINTS]
    still = findings(*table({"still": [0] * LAYERS}), "cka")
    assert "+0.00 (1 seed: no interval)" in summary(still, NOTES)


def test_there_is_a_map_of_each_layer(planted: Findings) -> None:
    losses = {run: [3.0] * len(STEPS) for run in planted.steps}
    drawn = figures(planted, losses)
    check_figures(drawn.values())
    assert sentences_of(drawn["arrival"]) == [CHECKPOINTS]
    assert set(drawn) == {"steps_cka", "arrival"}
    assert len(drawn["steps_cka"].axes) == 3 * LAYERS + 1
