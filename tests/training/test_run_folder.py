"""A run is a folder: the same command continues it, another is rejected, and a kill at any moment loses nothing."""

import csv
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from callbacks.validation import FinalValidation
from dissimilarity.tables.curves import read_curves
from launch.run.folder import ABSENT, differing, open_run, read_json, write_json
from launch.run.lock import locked
from tests.helpers.tiny_run import in_process, kill_after, kill_at, kill_at_file, tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_process(tiny(folder)) == 0
    return folder


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "runs" / "tiny" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if "seconds" not in key and "share" not in key} for row in rows]


def curves(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the curves table without their times."""
    return read_curves(folder / "runs" / "tiny").drop_columns("seconds").to_pylist()


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "runs" / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_leaves_the_files_it_promises(whole: Path) -> None:
    run = whole / "runs" / "tiny"
    names = {path.relative_to(run).as_posix() for path in run.rglob("*")}
    steps = (0, 1, 2, 4, 8, 11)
    assert {f"checkpoints/step_{step:07d}.ckpt" for step in steps} | {"checkpoints/last.ckpt"} == {
        name for name in names if name.endswith(".ckpt")
    }
    assert {"config.yaml", "provenance.json", "tokenizer.json", "metrics.csv", "summary.json"} <= names
    assert not [name for name in names if name.endswith(".part")]
    provenance = read_json(run / "provenance.json")
    assert provenance["packages"]["torch"] == torch.__version__
    assert provenance["precision"]["chosen"] == "32-true"
    assert len(provenance["data"]["fingerprint"]) == 64
    assert read_json(run / "summary.json")["status"] == "finished"


def test_weights_alone_in_the_scheduled_checkpoints(whole: Path) -> None:
    path = whole / "runs" / "tiny" / "checkpoints" / "step_0000004.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert {"state_dict", "hyper_parameters"} <= checkpoint.keys()
    assert "optimizer_states" not in checkpoint
    assert "optimizer_states" in last(whole)


def test_every_step_is_logged_once_and_validation_at_its_own_step(whole: Path) -> None:
    rows = metrics(whole)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(11))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [3, 6, 9, 11]


KILLS: dict[str, Callable[[], None]] = {
    "before the first step": partial(kill_at, "on_train_batch_start", 0),
    "after a step, before its tick is saved": partial(kill_at, "on_train_batch_end", 4),
    "at a step without a tick": partial(kill_at, "on_train_batch_end", 7),
    "as validation begins, at a step without a tick": partial(kill_at, "on_validation_start", 3),
    "between the checkpoint of a tick and last.ckpt": partial(kill_at_file, "last.ckpt", 4),
    "while config.yaml is put in place": partial(kill_at_file, "config.yaml", 1),
    "while the summary is put in place": partial(kill_at_file, "summary.json", 1),
    "in the last validation": partial(kill_at, "on_validation_start", 11),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_continues_to_the_last_bit(moment: str, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(whole / "cache")
    (tmp_path / "text.jsonl").symlink_to(whole / "text.jsonl")
    cfg = tiny(tmp_path)
    assert in_process(cfg, KILLS[moment]) == -signal.SIGKILL
    assert in_process(cfg) == 0
    assert metrics(tmp_path) == metrics(whole)
    assert_same(curves(tmp_path), curves(whole))
    assert_same(last(tmp_path)["state_dict"], last(whole)["state_dict"])
    assert_same(last(tmp_path)["optimizer_states"], last(whole)["optimizer_states"])


def test_a_budget_fixes_its_schedule_once(tmp_path: Path) -> None:
    """The killed run keeps the ticks that the first session chose, and the same values."""
    changes: dict[str, Any] = {"track__budget": 1e-9, "schedule__every": 2, "schedule__heatmap_every": 4}
    cfg = tiny(tmp_path, runs_dir=tmp_path / "other" / "runs", **changes)
    assert in_process(cfg) == 0
    cfg = tiny(tmp_path, **changes)
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 6)) == -signal.SIGKILL
    schedule = tmp_path / "runs" / "tiny" / "schedule.json"
    before = schedule.read_text()
    assert in_process(cfg) == 0
    assert schedule.read_text() == before
    assert_same(curves(tmp_path), curves(tmp_path / "other"))
    assert {row["step"] for row in curves(tmp_path)} == {0, 1, 2, 11}
    assert {row["reference_step"] for row in curves(tmp_path) if row["step"] == 11} == {0, 9}


def test_a_run_killed_at_random_moments_ends_with_the_same_tables(whole: Path, tmp_path: Path) -> None:
    """One run is killed five times, whenever the clock says."""
    (tmp_path / "cache").symlink_to(whole / "cache")
    (tmp_path / "text.jsonl").symlink_to(whole / "text.jsonl")
    changes = {"trainer__max_steps": 60, "schedule__every": 16, "schedule__heatmap_every": 16}
    expected, cfg = tiny(tmp_path, runs_dir=tmp_path / "other" / "runs", **changes), tiny(tmp_path, **changes)
    start = time.monotonic()
    assert in_process(expected) == 0
    duration, draw, delays = time.monotonic() - start, random.Random(), []
    while len(delays) < 5:
        delay = draw.uniform(0, duration)
        code = in_process(cfg, lambda delay=delay: kill_after(delay))
        assert code in (0, -signal.SIGKILL), f"exit code {code} after kills at {delays}"
        if code == 0:  # it was too late for this one: an emptied folder begins again
            shutil.rmtree(tmp_path / "runs")
        else:
            delays.append(round(delay, 4))
    assert in_process(cfg) == 0
    assert metrics(tmp_path) == metrics(tmp_path / "other"), delays
    assert_same(curves(tmp_path), curves(tmp_path / "other"))
    assert_same(last(tmp_path)["state_dict"], last(tmp_path / "other")["state_dict"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_between_two_steps_with_all_saved(signum: int, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(whole / "cache")
    (tmp_path / "text.jsonl").symlink_to(whole / "text.jsonl")
    cfg = tiny(tmp_path)
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 6, signum)) == 128 + signum
    assert last(tmp_path)["global_step"] == 6
    assert [int(row["step"]) for row in metrics(tmp_path) if row["train/loss"]] == list(range(6))
    assert in_process(cfg) == 0
    assert metrics(tmp_path) == metrics(whole)


def test_a_stop_off_the_schedule_has_its_row_and_changes_no_other(whole: Path, tmp_path: Path) -> None:
    def stop_after_six() -> None:
        before = FinalValidation.on_train_batch_end

        def stopping(self: Any, trainer: Any, *args: Any) -> None:
            before(self, trainer, *args)
            trainer.should_stop |= trainer.global_step == 6

        FinalValidation.on_train_batch_end = stopping  # pyright: ignore

    (tmp_path / "cache").symlink_to(whole / "cache")
    (tmp_path / "text.jsonl").symlink_to(whole / "text.jsonl")
    cfg = tiny(tmp_path)
    assert in_process(cfg, stop_after_six) == 0
    assert sorted({row["step"] for row in curves(tmp_path)}) == [0, 1, 2, 4, 6]
    assert in_process(cfg) == 0
    assert_same([row for row in curves(tmp_path) if row["step"] != 6], curves(whole))
    assert_same(last(tmp_path)["state_dict"], last(whole)["state_dict"])


def test_a_training_longer_than_its_text_and_with_accumulation_continues_too(tmp_path: Path) -> None:
    changes = {"data__val_fraction": 0.9, "trainer__accumulate_grad_batches": 2, "trainer__max_steps": 40}
    changes |= {"schedule__every": 20, "trainer__val_check_interval": 40, "data__batch_size": 8}
    (tmp_path / "other").mkdir()
    whole = tiny(tmp_path, runs_dir=tmp_path / "other" / "runs", **changes)
    assert in_process(whole) == 0
    cfg = tiny(tmp_path, **changes)
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 31)) == -signal.SIGKILL
    assert in_process(cfg) == 0
    assert metrics(tmp_path) == metrics(tmp_path / "other")
    assert len(metrics(tmp_path)) == 41


EPOCHS: dict[str, tuple[dict[str, Any], int]] = {
    "short": ({"+trainer.limit_train_batches": 6}, 8),
    "share, accumulated": ({"+trainer.limit_train_batches": 0.2, "trainer.accumulate_grad_batches": 3}, 9),
    "overfit": ({"trainer.overfit_batches": 3}, 9),
}


@pytest.mark.parametrize("epochs", EPOCHS)
def test_a_run_that_repeats_its_batches_continues_in_the_middle_of_an_epoch(
    epochs: str, whole: Path, tmp_path: Path
) -> None:
    """With 20 steps and 3 accumulated batches, a share of 0.2 is 12 batches: an epoch of 4 steps."""
    changes, kill = EPOCHS[epochs]
    changes = {"trainer.max_steps": 20, "trainer.val_check_interval": 4, "schedule.every": 5, **changes}
    for name in ("cache", "text.jsonl"):
        (tmp_path / name).symlink_to(whole / name)
    assert in_process(tiny(tmp_path, runs_dir=tmp_path / "other" / "runs", **changes)) == 0
    cfg = tiny(tmp_path, **changes)
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", kill)) == -signal.SIGKILL
    assert in_process(cfg) == 0
    assert metrics(tmp_path) == metrics(tmp_path / "other")
    assert_same(curves(tmp_path), curves(tmp_path / "other"))
    assert_same(last(tmp_path)["state_dict"], last(tmp_path / "other")["state_dict"])


def test_a_finished_run_is_left_alone_and_another_config_rejected(whole: Path) -> None:
    run = whole / "runs" / "tiny"
    with locked(run):
        assert open_run(run, tiny(whole)) == "finished"
        assert open_run(run, tiny(whole, logger="wandb", **{"callbacks__console__every_seconds": 1})) == "finished"
        with pytest.raises(ValueError, match=r"(?s)max_steps: 11 -> 12.*width: 16 -> 32.*name=.*overwrite=true"):
            open_run(run, tiny(whole, width=32, trainer__max_steps=12))


def test_a_missing_key_differs_from_any_value() -> None:
    assert differing({"width": 64}, {"width": 64, "stranger": None}) == [("stranger", ABSENT, None)]


def test_overwrite_empties_the_folder_but_keeps_foreign_files(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ValueError, match="is not the folder of a run"):
        open_run(run, tiny(tmp_path, overwrite=True))
    (run / "config.yaml").write_text(OmegaConf.to_yaml(tiny(tmp_path, width=32)))
    assert open_run(run, tiny(tmp_path, overwrite=True)) == "new"
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml"]


def test_a_killed_overwrite_is_completed(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / ".overwriting").touch()
    (run / "curves.jsonl").write_text("{}\n")
    assert open_run(run, tiny(tmp_path)) == "new"
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml"]


def test_changed_data_of_a_run_is_rejected(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = tiny(tmp_path)
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 4)) == -signal.SIGKILL
    notes = tmp_path / "runs" / "tiny" / "provenance.json"
    content = json.loads(notes.read_text())
    content["data"]["fingerprint"] = "0" * 64
    write_json(notes, content)
    assert in_process(cfg) == 1
    assert "has changed since the run began (fingerprint 000000000000 then" in capfd.readouterr().err


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        save = torch.save

        def full(content: Any, path: Any) -> None:
            if content["global_step"] < 4:
                return save(content, path)
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")

        torch.save = full

    cfg = tiny(tmp_path)
    assert in_process(cfg, fill) == 1
    assert "No space left" in capfd.readouterr().err
    assert last(tmp_path)["global_step"] == 2
    assert not list((tmp_path / "runs" / "tiny" / "checkpoints").glob(".*"))
    assert in_process(cfg) == 0


def assert_same(actual: Any, expected: Any) -> None:
    """Return whether nested containers of tensors and plain values are equal to the last bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for actual_item, expected_item in zip(actual, expected, strict=True):
            assert_same(actual_item, expected_item)
    else:
        assert actual == expected or (actual != actual and expected != expected)


KEPT = {"all": (0, 1, 2, 4, 8, 11), "last": (0, 11)}


@pytest.mark.parametrize("keep", KEPT)
def test_the_choice_of_checkpoints_may_change_between_starts_and_changes_no_number(
    keep: str, whole: Path, tmp_path: Path
) -> None:
    """The kills come before a file that must go is deleted, and after."""
    (tmp_path / "cache").symlink_to(whole / "cache")
    (tmp_path / "text.jsonl").symlink_to(whole / "text.jsonl")
    assert in_process(tiny(tmp_path), partial(kill_at, "on_train_batch_end", 3)) == -signal.SIGKILL
    cfg = tiny(tmp_path, checkpoints__keep=keep)
    assert in_process(cfg, partial(kill_at_file, "last.ckpt", 1)) == -signal.SIGKILL
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 9)) == -signal.SIGKILL
    assert in_process(cfg) == 0
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} - {"last.ckpt"} == {f"step_{s:07d}.ckpt" for s in KEPT[keep]}
    assert metrics(tmp_path) == metrics(whole)
    assert_same(curves(tmp_path), curves(whole))


def test_a_checkpoint_that_another_run_needs_is_never_deleted(tmp_path: Path) -> None:
    """The reference trains on after the other run has started, and that run still finds its first checkpoint."""
    other = tiny(tmp_path, name="other", checkpoints__keep="last")
    assert in_process(other, partial(kill_at, "on_train_batch_end", 6)) == -signal.SIGKILL
    cfg = tiny(tmp_path, references="[init,runs/other]")
    assert in_process(cfg, partial(kill_at, "on_train_batch_end", 3)) == -signal.SIGKILL
    assert in_process(other) == 0
    steps = {path.name for path in (tmp_path / "runs" / "other" / "checkpoints").glob("step_*.ckpt")}
    assert steps == {f"step_{step:07d}.ckpt" for step in (0, 4, 11)}
    assert in_process(cfg) == 0
