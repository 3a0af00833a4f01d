"""The page of a run shows its penalties, its reference groups, and rings where there was an alert."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from dissimilarity.inference.drift import write_groups
from dissimilarity.tables.curves import ALERTS, PENALTIES
from dissimilarity.tables.journal import Journal
from tests.helpers.report_folders import SITES, STEPS, Page, curve_row, page_of, write_run

FIRST, LAST = SITES


def alert(step: int, reference: str, measure: str, site: str) -> dict[str, Any]:
    return {
        "step": step,
        "rule": "move",
        "reference": reference,
        "measure": measure,
        "site": site,
        "text": f"at {step}",
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    rows = [
        curve_row(step, site, site, reference=name) for step in STEPS for site in SITES for name in ("init", "runs/b")
    ]
    folder = write_run(tmp_path_factory.mktemp("runs") / "a", rows)
    write_groups(folder, {"x": ["init"], "y": ["runs/b"]})
    at = {"reference": "init", "fit": "direct", "site_front": LAST, "stderr": 0.1, "sequences": 16}
    Journal(folder / PENALTIES).append(
        {"step": step, "direction": way, "value": value / (1 + step), **at}
        for step in (0, 8)
        for way, value in (("into", 1.0), ("from", 2.0))
    )
    Journal(folder / PENALTIES).append([{"step": 9}])  # of another version
    places = [(4, "init", "cka", FIRST), (8, "", "rankme", LAST), (2, "x", "cka", LAST), (2, "gone", "cka", "no site")]
    Journal(folder / ALERTS).append(alert(*place) for place in places)
    return page_of(folder)


def test_penalties_have_both_directions_with_their_intervals(page: Page) -> None:
    ((name, rows),) = page.data["page"]["series"]["penalties"].items()
    assert name == "direct stitch, init, nats per token"
    half = stats.t.ppf(0.975, 15) * 0.1
    values = {(row["kind"], row["step"]): (row["d"], row["low"], row["high"]) for row in rows}
    assert values["curve", 8] == pytest.approx((1 / 9, 1 / 9 - half, 1 / 9 + half), rel=1e-4)
    assert values["reference", 0] == pytest.approx((2, 2 - half, 2 + half), rel=1e-4) and len(rows) == 4
    assert {row["id"] for row in rows if row["kind"] == "reference"} == {"from init"}
    assert "Stitching penalties" in page.text


def test_groups_are_drawn_at_the_last_site_without_their_difference(page: Page) -> None:
    ((name, rows),) = page.data["page"]["series"]["drift"].items()
    assert name == "1 - CKA at block 1" and {row["series"] for row in rows} == {"x", "y"}
    nearest = {row["step"]: row["d"] for row in rows if row["series"] == "x"}
    expected = {step: curve_row(step, LAST, LAST, reference="init")["dissimilarity"] for step in STEPS}
    assert nearest == pytest.approx(expected, rel=1e-4)
    assert all(row["low"] is None for row in rows), "one reference has no interval"


def test_alerts_stand_at_their_curve_and_step(page: Page) -> None:
    assert ["init", "cka", FIRST, 4, "at 4"] in page.data["page"]["alerts"] and len(page.data["page"]["alerts"]) == 4
    series = page.data["page"]["series"]
    rings = [
        (name, row["series"], row["step"], row["alert"])
        for part in ("drift", "intrinsic")
        for name, rows in series[part].items()
        for row in rows
        if row["alert"]
    ]
    assert rings == [("1 - CKA at block 1", "x", 2, "at 2"), ("RankMe (effective rank)", "block 1", 8, "at 8")]


def test_a_run_without_them_has_no_such_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for name in ("penalties", "drift"):
        assert page_of(folder).data["page"]["series"][name] == {}
    assert "Stitching penalties" not in page_of(folder).text and math.isfinite(len(page_of(folder).source))


@pytest.mark.parametrize(("step", "shown"), [(12345, "step 12,345, move"), (None, "step None, move")])
def test_alerts_are_listed_with_their_steps(tmp_path: Path, step: int | None, shown: str) -> None:
    folder = write_run(tmp_path / "a")
    Journal(folder / ALERTS).append([{"step": step, "rule": "move", "text": "the layer moved"}])
    assert f"{shown}: the layer moved" in page_of(folder).text
