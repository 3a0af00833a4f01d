"""An offline W&B run, read back with W&B's own reader, holds the numbers of the curves table."""

import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dissimilarity.tables.curves import read_curves
from dissimilarity.tracking.logger_keys import STEP_AXIS, by_key, sectioned
from launch.run.config_file import read_yaml
from tests.helpers.tiny_run import in_process, kill_at, tiny, tiny_overrides

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with W&B offline, in a process of its own, as a user starts it."""
    place = tmp_path_factory.mktemp("wandb")
    options = {"depth": 2, "callbacks.console.every_seconds": 0.001}
    overrides = [entry for entry in tiny_overrides(place, logger="wandb", **options) if not entry.startswith("hydra")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides], cwd=place, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return place / "runs" / "tiny"


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    """Return every record of the run's only file."""
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return inspected(log)


def inspected(log: Path) -> list[dict[str, Any]]:
    """Return the records of a file, by W&B's own reader."""
    wandb = Path(sys.executable).with_name("wandb")
    shown = subprocess.run([str(wandb), "leet", "inspect", "--json", str(log)], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines() if line.strip()]


def history(records: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Return the logged numbers by step."""
    steps: dict[int, dict[str, float]] = {}
    for record in records:
        if record.get("type") == "history":
            items = flat(record)
            if STEP_AXIS in items:
                steps.setdefault(int(items[STEP_AXIS]), {}).update(items)
    return steps


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return key and value of each item of a history record, however the reader nests them."""
    inner = next((record[key] for key in ("history", "data", "payload") if isinstance(record.get(key), dict)), record)
    items = inner.get("item") or inner.get("items")
    if isinstance(items, list):
        values = {}
        for item in items:
            key = item.get("key") or "/".join(item.get("nested_key") or item.get("nestedKey") or [])
            value = item.get("value_json", item.get("valueJson", item.get("value")))
            values[key] = json.loads(value) if isinstance(value, str) else value
        return values
    return items if isinstance(items, dict) else inner


def test_every_matched_value_of_the_table_is_in_the_run(folder: Path, records: list[dict[str, Any]]) -> None:
    steps = history(records)
    matched = [row for row in read_curves(folder).to_pylist() if row["site_a"] == row["site_b"]]
    assert len(matched) > 50
    for row in matched:
        (key,) = by_key([row | {"reference_step": -1}]).keys()
        assert not math.isnan(row["dissimilarity"])
        assert steps[row["step"]][sectioned(key)] == pytest.approx(row["dissimilarity"], abs=1e-12), key


def test_each_curve_has_its_axis_by_exact_name(folder: Path, records: list[dict[str, Any]]) -> None:
    text = json.dumps([record for record in records if "metric" in str(record.get("type", "")).lower()])
    for key in by_key(row for row in read_curves(folder).to_pylist() if row["site_a"] == row["site_b"]):
        assert f'"{sectioned(key)}"' in text, f"no axis was defined for {key}"


def test_the_best_loss_is_in_the_summary(records: list[dict[str, Any]]) -> None:
    """A table of runs then sorts by the best loss, and still has the last one."""
    defined = [
        json.dumps(record) for record in records if "val/loss" in json.dumps(record) and "min" in json.dumps(record)
    ]
    assert any(STEP_AXIS in line for line in defined)


def test_pictures_table_config_and_provenance_are_in_it(folder: Path, records: list[dict[str, Any]]) -> None:
    media = next(folder.glob("wandb/offline-run-*/files/media"))
    assert list(media.rglob("*.png")), "no picture was logged"
    assert len(list(media.rglob("heatmaps/init_*.png"))) > 1, "heat maps have no slider"
    assert list(media.rglob("*.table.json")), "no table was logged"
    everything = json.dumps(records)
    notes = json.loads((folder / "provenance.json").read_text())
    assert notes["data"]["fingerprint"] in everything
    assert "heatmap_every" in everything


def test_each_reference_and_measure_has_a_chart_of_all_layers(folder: Path) -> None:
    """The newest table of each chart holds the curves of the run up to the last heat map."""
    media = next(folder.glob("wandb/offline-run-*/files/media/table"))
    matched = [row for row in read_curves(folder).to_pylist() if row["site_a"] == row["site_b"]]
    for reference, measure in {(row["reference"], row["measure"]) for row in matched}:
        rows = [row for row in matched if (row["reference"], row["measure"]) == (reference, measure)]
        tables = media.rglob(f"{reference} {measure}_table_*.table.json")
        newest = max(tables, key=lambda path: len(json.loads(path.read_text())["data"]))
        points = {(step, site): value for step, site, value in json.loads(newest.read_text())["data"]}
        expected = {(row["step"], row["site_a"]): row["dissimilarity"] for row in rows}
        assert points == pytest.approx(expected, abs=1e-12) and len({site for _, site in points}) == 2


def test_error_bars_and_calibrated_values_are_live(folder: Path, records: list[dict[str, Any]]) -> None:
    steps = history(records)
    for row in read_curves(folder).to_pylist():
        if row["site_a"] != row["site_b"]:
            continue
        for column in ("stderr", "calibrated"):
            key = f"{column} {row['reference']} {row['measure']}/{row['site_a']}"
            if math.isfinite(row[column]):
                assert steps[row["step"]][key] == pytest.approx(row[column], abs=1e-12)
            else:
                assert key not in steps[row["step"]]


def test_config_has_each_value_once_and_none_that_is_missing(folder: Path, records: list[dict[str, Any]]) -> None:
    everything = json.dumps(records)
    assert "???" not in everything
    settings = read_yaml(folder / "config.yaml")
    updates = [record["config"]["update"] for record in records if record.get("type") == "config"]
    logged = {key: value for update in updates for key, value in update.items() if not key.startswith("_wandb")}
    assert {"width", "model", "provenance"} <= logged.keys() <= settings.keys() | {"provenance"}  # none of the module
    assert logged["width"] == settings["width"] and "width" not in logged["model"]


def test_summary_has_the_parameters_and_the_run_its_tags(folder: Path, records: list[dict[str, Any]]) -> None:
    parameters = json.loads((folder / "summary.json").read_text())["parameters"]
    summaries = [json.dumps(record) for record in records if record.get("type") == "summary"]
    assert any('"parameters"' in text and str(parameters) in text for text in summaries)
    (run,) = [record["run"] for record in records if record.get("type") == "run"]
    assert run["tags"][1:] == ["width 16", "depth 2"]


def test_the_console_is_kept(folder: Path) -> None:
    log = next(folder.glob("wandb/offline-run-*/files/output.log")).read_text()
    assert "loss" in log


def test_the_newest_folder_of_a_killed_run_holds_all_of_it(tmp_path: Path) -> None:
    cfg = tiny(tmp_path, logger="wandb")
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 6)) == -signal.SIGKILL
    time.sleep(1.1)  # W&B names folders by the second
    assert in_process(cfg) == 0
    run = tmp_path / "runs" / "tiny"
    older, newest = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert older.name == newest.name, "one run of W&B"
    steps = history(inspected(newest))
    matched = [row for row in read_curves(run).to_pylist() if row["site_a"] == row["site_b"]]
    assert {row["step"] for row in matched} == {0, 1, 2, 4, 8, 11}
    for row in matched:
        (key,) = by_key([row | {"reference_step": -1}]).keys()
        assert steps[row["step"]][sectioned(key)] == pytest.approx(row["dissimilarity"], abs=1e-12), key
    assert [step for step, row in sorted(steps.items()) if "train/loss" in row] == list(range(11))
