"""One clear message per input that cannot be compared; inside a training it is a note of each tick."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, read_curves
from dissimilarity.tracking.penalties import PenaltyTracker
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState

TOKENS = torch.randint(20, (16, 5), generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


class OfImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)


class OfTwo(OfImages):
    def forward(self, images: Tensor, scale: Tensor) -> Tensor:
        return super().forward(images) * scale


def notes(folder: Path, model: nn.Module, references: Any, probe: Tensor = TOKENS) -> set[str]:
    """Tick twice, and return the notes."""
    tracker = Tracker(references, CKA(), probe, folder, sites="head", every=1)
    for step in (0, 1):
        tracker.follow(model, step)
    rows = read_curves(folder).to_pylist()
    assert {row["step"] for row in rows} == {0, 1}
    return {row["note"] for row in rows}


@pytest.mark.parametrize(
    ("model", "probe", "message"),
    [
        (
            OfImages(),
            TOKENS,
            r"OfImages.forward\(images\) cannot read inputs int64 \(16, 5\): mat1 and mat2 must have",
        ),
        (OfTwo(), TOKENS, r"OfTwo.forward\(images, scale\) cannot read inputs int64 \(16, 5\): .*'scale'"),
        (OfImages(), torch.randn(16, 8, 9), r"cannot read inputs float32 \(16, 8, 9\): mat1 and mat2 shapes"),
        (Net(), torch.randn(16, 5), r"Net.forward\(tokens\) cannot read inputs float32 \(16, 5\): Expected"),
    ],
)
def test_inputs_that_a_model_cannot_take_are_named_beside_what_it_takes(
    model: nn.Module, probe: Tensor, message: str, tmp_path: Path
) -> None:
    (note,) = notes(tmp_path / "own", model, "init", probe)
    assert re.search(message, note) and note.endswith("; pass inputs that it takes")
    if probe is TOKENS:
        assert re.search(message, next(iter(notes(tmp_path / "reference", Net(), {"other": model}))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_reference_in_another_precision_is_compared_in_its_own(dtype: torch.dtype, tmp_path: Path) -> None:
    assert notes(tmp_path, Net(), {"other": Net(1).to(dtype)}) == {""}


def test_a_base_that_is_not_there_says_who_knows_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'base': only the callback for the Hugging Face Trainer knows the base"):
        notes(tmp_path, Net(), ["base"])


def test_a_start_that_is_gone_says_what_was_expected(tmp_path: Path) -> None:
    tracker = Tracker(["init"], CKA(), TOKENS, tmp_path, sites="head", every=1)
    tracker.follow(Net(), 5)
    (note,) = {row["note"] for row in read_curves(tmp_path).to_pylist()}
    assert "the model at step 0 is gone: expected its activations in" in note and "put the folder back" in note


def test_a_lag_longer_than_the_training_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = PenaltyTracker(["previous"], lambda count: TOKENS, tmp_path, every=100)
    model = nn.Module()
    model.net = Net()
    with caplog.at_level(logging.WARNING):
        tracker.start(TrainingState(model, step=0, last_step=50))
    assert "it is the model 100 steps before, and training ends at step 50" in caplog.text
