"""What cannot be measured has rows without a value, one warning says why, and training continues."""

import logging
import math
import pydoc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dissimilarity import CKA, compare, read_curves
from dissimilarity.functional import cka
from dissimilarity.tracking.penalties import PenaltyTracker
from dissimilarity.tracking.tracker import Tracker
from tests.instrument.tracking.test_references import Wrapped
from tests.instrument.tracking.test_tracker import Layered, fit, loader_of, rows_of, tokens, tracker_for


class Headless(pl.LightningModule):
    """A module that trains a network and has no ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Layered()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("control", [{}, {"drop_top_norm": 1}])
def test_a_module_without_forward(control: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = {"init": "init", "previous": "previous", "teacher": Wrapped()}
    tracker = tracker_for(tmp_path, references, sites="net.layers.*", measures=[CKA()], control=control)
    with caplog.at_level(logging.WARNING, "dissimilarity"):
        trainer = fit(tracker, Headless(), steps=3)
    assert trainer.global_step == 3
    rows = rows_of(tmp_path)
    assert {(row["step"], row["reference"]) for row in rows} == {
        (step, label) for step in (0, 1, 2, 3) for label in references if step or label != "previous"
    }
    assert all(math.isnan(row["value"]) and 'missing the required "forward"' in row["note"] for row in rows)
    (warning,) = caplog.messages
    assert 'missing the required "forward"' in warning and "define `forward`" in warning


class Placed(nn.Module):
    """A module that remembers how often it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.moves = Layered(), 0

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.moves += 1
        return super().to(*args, **kwargs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


def test_what_trains_is_never_moved(tmp_path: Path) -> None:
    """It may lie on several devices; so may what shares its weights."""
    model, sharing, other = Placed(), Placed(), Placed()
    sharing.net = model.net
    references = {"init": "init", "sharing": sharing, "other": other}
    tracker = Tracker(references, CKA(), tokens(0, 12, 8), tmp_path, sites="net.layers.*", control={"drop_top_norm": 1})
    tracker.follow(model, 0, 0)
    assert (model.moves, sharing.moves) == (0, 0) and other.moves > 0


def test_a_folder_that_is_deleted_is_made_again(tmp_path: Path) -> None:
    folder, model = tmp_path / "a" / "b", Layered()
    tracker = Tracker(["init", "previous"], CKA(), tokens(0, 12, 8), folder, sites="layers.*", every=4)
    for step in range(9):
        if step == 5:
            shutil.rmtree(folder.parent)
        tracker.follow(model, step, 8)
    assert {row["step"] for row in read_curves(folder).to_pylist()} == {8}


@pytest.mark.parametrize("path", ["file", "file/folder"])
def test_a_file_is_no_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for make in (
        lambda: Tracker(["init"], CKA(), tokens(0, 12, 8), tmp_path / path),
        lambda: PenaltyTracker(["init"], lambda n: tokens(0, n, 8), tmp_path / path),
    ):
        with pytest.raises(ValueError, match=r"file is a file; pass the path of a folder"):
            make()


@pytest.mark.parametrize("control", [{}, {"drop_top_norm": 1}])
def test_a_reference_without_a_site_is_named(control: dict[str, int], tmp_path: Path) -> None:
    references = {"init": "init", "teacher": nn.Sequential(nn.Embedding(50, 4))}
    tracker = Tracker(references, CKA(), tokens(0, 12, 8), tmp_path, sites="layers.*", control=control)
    with pytest.raises(ValueError, match=r"^reference 'teacher': no site of the model matches 'layers.\*'"):
        tracker.follow(Layered(), 0)


class Broken(nn.Module):
    """A reference that cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3)])

    def forward(self, tokens: Tensor) -> Tensor:
        raise RuntimeError("a broken model")


@pytest.mark.parametrize("control", [{}, {"drop_top_norm": 1}])
def test_a_reference_that_cannot_run(control: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    references = {"broken": Broken(), "init": "init", "teacher": Layered(seed=5)}
    tracker = tracker_for(tmp_path, references, measures=[CKA()], control=control)
    with caplog.at_level(logging.WARNING, "dissimilarity"):
        fit(tracker, Layered(), steps=2)
    rows = rows_of(tmp_path)
    broken = [row for row in rows if row["reference"] == "broken"]
    assert {row["step"] for row in broken} == {0, 1, 2}
    assert all(math.isnan(row["value"]) and row["note"] == "RuntimeError: a broken model" for row in broken)
    assert {(row["site_a"], row["site_b"]) for row in broken} == {("layers.0", "layers.0"), ("layers.1", "layers.0")}
    others = [row for row in rows if row["reference"] != "broken"]
    assert others and all(math.isfinite(row["value"]) for row in others)
    assert caplog.messages == ["step 0, reference broken: RuntimeError: a broken model"]


class Numbers(pl.LightningModule):
    """A network that reads numbers, and creates a tensor in torch's default precision."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x + torch.zeros(8))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_numbers_in_another_precision(precision: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """Models read a probe set of float32 in their own precision, a reference of another one too."""
    numbers = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    module, teacher = Numbers(), Numbers(seed=5)
    tracker = tracker_for(tmp_path, {"init": "init", "teacher": teacher}, probe=numbers, sites="layers", measures=CKA())
    fit(tracker, module, steps=2, loader=loader_of(numbers, 8), precision=precision)
    assert torch.get_default_dtype() == torch.float32 == next(teacher.parameters()).dtype
    rows = {(row["step"], row["reference"]): row for row in rows_of(tmp_path)}
    assert all(row["note"] == "" for row in rows.values())
    with torch.no_grad():
        now = module.layers(numbers.to(dtype)).double()
        expected = {"teacher": cka(now, teacher(numbers).double()).item()}
        expected["init"] = cka(now, Numbers().to(dtype).layers(numbers.to(dtype)).double()).item()
    for label, value in expected.items():
        assert rows[2, label]["value"] == pytest.approx(value, abs=1e-6)
    (row,) = compare(module.layers, teacher.layers, numbers, "2", CKA()).to_pylist()
    assert row["value"] == pytest.approx(expected["teacher"], abs=1e-6)


class OddError(Exception):
    """An error of no other kind, which whatever catches only some kinds lets through."""


FAULTS: dict[str, int] = {
    "dissimilarity.tracking.tracker.compare_pair": 1,
    "dissimilarity.tracking.probe_reader.ProbeReader.read": 6,
    "dissimilarity.tracking.probe_reader.read_chunks": 3,  # between two ticks, for `previous` of the last one
    "dissimilarity.tracking.tracker.heatmap_pictures": 4,
    "dissimilarity.tracking.alerts.Collapse.tested": 4,
    "dissimilarity.comparison.activations.intrinsic_of_site": 4,
    "dissimilarity.tables.curves.Curves.append": 2,
    "dissimilarity.tracking.tables.groups_of_references.fold": 9,
}


def _with_fault(faulty: Callable[..., Any], place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: faulty(place, function, *args, **kwargs)


def test_a_fault_of_any_kind_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a part of a tick raises: the tick has a note or its values, and the others have theirs."""
    now, raised = -1, []

    def faulty(place: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if now == FAULTS[place]:
            raised.append(place)
            raise OddError("in a part of a tick")
        return function(*args, **kwargs)

    for place in FAULTS:
        owner, _, name = place.rpartition(".")
        target = pydoc.locate(owner)
        monkeypatch.setattr(target, name, _with_fault(faulty, place, getattr(target, name)))
    model, references = Layered(), {"init": "init", "previous": "previous", "other": Layered(seed=5)}
    options: dict[str, Any] = {"sites": "layers.*", "every": 6, "heatmap_every": 4, "alerts": ["collapse"]}
    tracker = Tracker(references, CKA(), tokens(0, 8, 6), tmp_path, **options)
    for now in range(10):
        tracker.follow(model, now, last_step=9)
        tracker.pictures()
        for weights in model.parameters():
            weights.data += 0.01 * torch.randn_like(weights)
    assert set(raised) == set(FAULTS)
    rows = rows_of(tmp_path)
    assert {row["step"] for row in rows} == {0, 1, 2, 4, 6, 9}
    notes = {row["step"]: row["note"] for row in rows if math.isnan(row["value"])}
    assert "the model at step 3 is gone" in notes.pop(9)  # step 3 is no tick, but what the last one compares
    assert notes == dict.fromkeys((1, 6), "OddError: in a part of a tick")
