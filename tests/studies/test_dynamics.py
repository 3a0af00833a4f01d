"""When layers arrive, from tables whose answer is known."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from studies.dynamics.figures import figures
from studies.dynamics.numbers import Findings, findings, order, smallest_p, stays_below
from studies.dynamics.text import summary, terminal_tables

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
    return findings(*table({"up": [2, 4, 8, 16, 24, 32], "down": [32, 24, 16, 8, 4, 2]}))


def test_layers_that_freeze_earlier_below_are_bottom_up(planted: Findings) -> None:
    up, down = (planted.orders["cka", run, "half"] for run in ("up", "down"))
    assert (up.verdict, down.verdict) == ("bottom-up", "top-down")
    assert up.rho == pytest.approx(1) and down.rho == pytest.approx(-1)
    assert up.p == pytest.approx(2 / math.factorial(LAYERS)) == pytest.approx(smallest_p(LAYERS))
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


def test_chance_gives_an_order_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    seen = [order(rng.permutation(6).tolist()).verdict for _ in range(300)]
    assert 0.005 < 1 - seen.count("no order") / len(seen) < 0.1


def test_few_layers_and_equal_layers_have_no_order() -> None:
    assert order([1, 2, 3, 4]).verdict == "no order" and order([1, 2, 3, 4]).rho == pytest.approx(1)
    assert math.isnan(order([1, 1, 1, 1]).rho) and math.isnan(order([1, math.nan, 3]).rho)


def test_two_runs_have_a_map_of_one_with_the_other(planted: Findings) -> None:
    assert planted.maps["cka", "up", "up"].shape == (LAYERS, len(STEPS), len(STEPS))
    itself = planted.maps["cka", "up", "up"]
    np.testing.assert_array_equal(itself, itself.transpose(0, 2, 1))
    assert (itself[:, range(len(STEPS)), range(len(STEPS))] == 0).all()
    assert planted.maps["cka", "up", "down"][:, -1, -1] == pytest.approx(0.3, abs=0.06)
    alone = findings(*table({"up": [2, 4, 8, 16, 24, 32]}))
    assert list(alone.maps) == [("cka", "up", "up")]
    assert all(math.isnan(layer.floor) for layer in alone.arrivals["cka", "up"])


def test_the_summary_says_what_was_planted(planted: Findings) -> None:
    text = summary(planted, NOTES)
    assert "The layers of up reach their final form bottom-up: the lower a layer, the earlier (+1.00, p = 0.003" in text
    assert "The layers of down reach their final form top-down" in text
    assert "layer 0 is halfway at step 2, and layer 5, the last one, at step 3" in text
    assert "no order can be told from chance" not in text
    (shown,) = terminal_tables(planted)
    assert shown.row_count == 2
    still = findings(*table({"still": [0] * LAYERS}))
    assert "no order" in summary(still, NOTES)


def test_there_is_a_map_of_each_layer(planted: Findings) -> None:
    losses = {run: [3.0] * len(STEPS) for run in planted.steps}
    drawn = figures(planted, losses)
    assert set(drawn) == {"steps_cka", "arrival"}
    assert len(drawn["steps_cka"].axes) == 3 * LAYERS + 1
