"""A training continues from any checkpoint; rows that need deleted data have no value and say so."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from dissimilarity import CKA
from dissimilarity.lightning import DissimilarityTracker
from tests.instrument.tracking.test_references import curves_of
from tests.instrument.tracking.test_tracker import LENGTH, SEQUENCES, Layered, fit, rows_of, tokens, tracker_for


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "step_{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)


def tracker_in(folder: Path, **choices: Any) -> DissimilarityTracker:
    return tracker_for(folder, measures=[CKA()], **choices)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tracked training of 7 steps and its checkpoints, and those of one that was not tracked."""
    folder = tmp_path_factory.mktemp("begun")
    fit(tracker_in(folder / "tracked"), Layered(), 7, others=[checkpoints(folder / "checkpoints")])
    control = {"drop_top_norm": 1}
    fit(tracker_in(folder / "dropped", control=control), Layered(), 4, others=[checkpoints(folder / "positions")])
    fit(None, Layered(), 5, others=[checkpoints(folder / "untracked")])
    return folder


def notes(folder: Path, step: int) -> dict[str, str]:
    rows = [row for row in rows_of(folder) if row["step"] == step]
    assert all(math.isnan(row["value"]) == bool(row["note"]) for row in rows)
    return {row["reference"]: row["note"] for row in rows}


def test_a_checkpoint_without_the_state_of_the_tracker(trainings: Path, tmp_path: Path) -> None:
    fit(tracker_in(tmp_path), Layered(), 9, ckpt_path=trainings / "untracked" / "step_5.ckpt")
    assert {row["step"] for row in rows_of(tmp_path)} == {6, 9}
    assert "the model at step 0 is gone" in notes(tmp_path, 6)["init"]
    assert "the model at step 3 is gone" in notes(tmp_path, 6)["previous"]
    assert notes(tmp_path, 9)["previous"] == ""


@pytest.mark.parametrize(("tracked", "saved"), [("tracked", "checkpoints"), ("dropped", "positions")])
def test_another_folder(tracked: str, saved: str, trainings: Path, tmp_path: Path) -> None:
    """Also with positions that were fixed when training started: others are fixed now."""
    control = {"drop_top_norm": 1} if tracked == "dropped" else {}
    fit(tracker_in(tmp_path, control=control), Layered(), 9, ckpt_path=trainings / saved / "step_4.ckpt")
    assert "the model at step 0 is gone" in notes(tmp_path, 6)["init"]
    assert "the model at step 3 is gone" in notes(tmp_path, 6)["previous"]
    assert notes(tmp_path, 9)["previous"] == ""


def test_missing_positions_beside_existing_rows(
    trainings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control = {"drop_top_norm": 1}
    fit(tracker_in(tmp_path, control=control), Layered(), 4, others=[checkpoints(tmp_path / "checkpoints")])
    (tmp_path / "references" / "positions.safetensors").unlink()
    fit(tracker_in(tmp_path, control=control), Layered(), 6, ckpt_path=tmp_path / "checkpoints" / "step_4.ckpt")
    assert all("which positions drop_top_norm drops" in note for note in notes(tmp_path, 6).values())
    assert len([message for message in caplog.messages if "drop_top_norm" in message]) == 1
    assert notes(tmp_path, 3) == {"init": "", "previous": ""}


def test_an_older_checkpoint_and_a_folder_that_was_moved(trainings: Path, tmp_path: Path) -> None:
    """Step 3 is measured at step 4's checkpoint; the steps after it are measured again and are the same."""
    others = [checkpoints(tmp_path / "checkpoints")]
    fit(tracker_in(tmp_path / "tracked"), Layered(), 7, others=others, limit_train_batches=4)
    whole = curves_of(tmp_path / "tracked")
    (tmp_path / "tracked").rename(tmp_path / "moved")
    older = tmp_path / "checkpoints" / "step_4.ckpt"
    fit(tracker_in(tmp_path / "moved"), Layered(), 7, ckpt_path=older, limit_train_batches=4)
    assert curves_of(tmp_path / "moved") == whole


def test_the_folder_of_another_training(trainings: Path, tmp_path: Path) -> None:
    """Its model at step 0 is not this one's."""
    fit(tracker_in(tmp_path), Layered(seed=7), 3)
    fit(tracker_in(tmp_path), Layered(), 9, ckpt_path=trainings / "checkpoints" / "step_4.ckpt")
    assert all("not of the training whose earlier states are in" in note for note in notes(tmp_path, 6).values())
    assert notes(tmp_path, 9)["previous"] == ""
    fit(tracker_in(tmp_path), Layered(), 9, ckpt_path=trainings / "untracked" / "step_5.ckpt")
    assert "not of the training whose earlier states are in" in notes(tmp_path, 6)["init"]


@pytest.mark.parametrize(
    "choices",
    [
        {"probe": tokens(9, SEQUENCES, LENGTH)},
        {"mask": torch.arange(LENGTH).expand(SEQUENCES, -1) > 0},
        {"sites": ["embedding", "layers.*"]},
    ],
    ids=["another probe set", "another mask", "more sites"],
)
def test_earlier_states_are_not_compared_on_other_samples(
    choices: dict[str, Any], trainings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trainings / "tracked", tmp_path / "tracked")
    tracker = tracker_in(tmp_path / "tracked", **choices)
    fit(tracker, Layered(), 9, ckpt_path=trainings / "checkpoints" / "step_4.ckpt")
    note = notes(tmp_path / "tracked", 6)["init"]
    assert "the model at step 0 is gone" in note
    assert ("its activations are there, without those at embedding: leave these out" in note) == ("sites" in choices)
    assert notes(tmp_path / "tracked", 9)["previous"] == ""
    assert ("the probe set differs from that of the checkpoint" in caplog.text) == ("sites" not in choices)


class Keys(Logger):
    """A logger that remembers the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    @property
    def name(self) -> str:
        return "keys"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.keys |= metrics.keys()


def test_two_trackers_in_one_trainer(tmp_path: Path) -> None:
    """Each has its own state, table and keys, also where the last parts of their folders are the same."""
    keys = Keys()

    def trained(steps: int, ckpt_path: Path | None = None) -> pl.Trainer:
        others = [tracker_in(tmp_path / "b" / "tracked", every=2), checkpoints(tmp_path / "checkpoints")]
        first = tracker_in(tmp_path / "a" / "tracked")
        return fit(first, Layered(), steps, others, ckpt_path=ckpt_path, logger=keys, limit_train_batches=4)

    trained(4)
    trained(8, tmp_path / "checkpoints" / "step_4.ckpt")
    fit(tracker_in(tmp_path / "one"), Layered(), 8, limit_train_batches=4)
    fit(tracker_in(tmp_path / "two", every=2), Layered(), 8, limit_train_batches=4)
    for name, alone in (("a", "one"), ("b", "two")):
        curves, expected = curves_of(tmp_path / name / "tracked"), curves_of(tmp_path / alone)
        assert {key: curves[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    for name in ("a/tracked", "b/tracked"):
        assert {f"dissimilarity/{name}/init/cka/layers.0", f"dissimilarity/{name}/share"} <= keys.keys
    assert not any(key.startswith("dissimilarity/init/") for key in keys.keys)


def test_two_trackers_in_one_folder_are_rejected(tmp_path: Path) -> None:
    others = [tracker_in(tmp_path / "x" / ".." / "tracked")]
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="give each its own folder"):
        fit(tracker_in(tmp_path / "tracked"), Layered(), 2, others)
