"""What cannot be measured has rows without a value, one warning says why, and training continues."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dissimilarity import CKA, compare
from dissimilarity.functional import cka
from tests.instrument.tracking.test_references import Wrapped
from tests.instrument.tracking.test_tracker import Layered, fit, loader_of, rows_of, tracker_for


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
