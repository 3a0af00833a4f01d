"""The callback that stitches a model in training into its references, and the reverse."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity.lightning import StitchingTracker
from dissimilarity.tables.journal import Journal
from tests.helpers.tiny_run import in_process, kill_at, tiny


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = Journal(folder / "runs/tiny/penalties.jsonl").read()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def stitched(folder: Path, **changes: Any) -> Any:
    settings = {"callbacks": "stitching", "callbacks.stitching.sequences": 16}
    settings["callbacks.stitching.every"] = 4
    return tiny(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was never interrupted, with trained stitches at step 8."""
    folder = tmp_path_factory.mktemp("stitched")
    changes = {"callbacks.stitching.task_at": "[8]", "callbacks.stitching.task_steps": 3}
    assert in_process(stitched(folder, **changes)) == 0
    return folder


def test_both_directions_of_every_reference_are_measured_when_due(whole: Path) -> None:
    rows = [row for row in rows_of(whole) if row["fit"] == "direct"]
    measured = {(row["step"], row["reference"], row["direction"]) for row in rows}
    steps = (4, 8, 11)
    expected = {(step, "init", direction) for step in steps for direction in ("into", "from")}
    expected |= {(step, "previous", direction) for step in steps for direction in ("into", "from")}
    assert measured == expected
    assert all(row["value"] == pytest.approx(row["loss_stitched"] - row["loss_back"], abs=1e-6) for row in rows)


def test_stitches_are_trained_at_the_requested_steps(whole: Path) -> None:
    rows = [row for row in rows_of(whole) if row["fit"] == "task"]
    assert {row["step"] for row in rows} == {8} and len(rows) == 4
    assert all(0 <= row["steps"] <= 3 for row in rows)


def test_the_training_is_that_of_a_run_without_stitches(whole: Path, tmp_path: Path) -> None:
    assert in_process(tiny(tmp_path)) == 0
    weights = [
        torch.load(folder / "runs/tiny/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, tmp_path)
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.parametrize("step", [3, 5, 9])
def test_a_killed_run_ends_with_the_same_records(whole: Path, tmp_path: Path, step: int) -> None:
    changes = {"callbacks.stitching.task_at": "[8]", "callbacks.stitching.task_steps": 3}
    cfg = stitched(tmp_path, **changes)
    assert in_process(cfg, lambda: kill_at("on_train_batch_end", step)) == -9
    assert in_process(cfg) == 0
    assert rows_of(tmp_path) == rows_of(whole)


def test_a_budget_leaves_the_first_and_the_last_step(tmp_path: Path) -> None:
    assert in_process(stitched(tmp_path, **{"callbacks.stitching.budget": 1e-9})) == 0
    rows = rows_of(tmp_path)
    steps = {(row["step"], row["reference"], row["reference_step"]) for row in rows}
    assert steps == {(4, "init", 0), (4, "previous", 0), (11, "init", 0), (11, "previous", 7)}


def test_a_reference_that_cannot_be_stitched_leaves_records_and_training_continues(tmp_path: Path, whole: Path) -> None:
    other = whole / "runs/tiny"
    cfg = stitched(tmp_path, references=f"[{other}]", **{"callbacks.stitching.kind": "identity", "width": 8})
    assert in_process(cfg) == 0
    rows = rows_of(tmp_path)
    assert rows and all("identity" in row["note"] for row in rows)


def test_too_little_text_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 14, found 4"):
        StitchingTracker(["init"], lambda n: torch.zeros(n, 8, dtype=torch.long), tmp_path, sequences=4)
