"""The tracker without a trainer: a plain training loop calls its core."""

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.kills import same
from dissimilarity import CKA, read_curves
from dissimilarity.lightning import StitchingTracker
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState

STEPS = 6


def tokens() -> Tensor:
    return torch.randint(20, (12, 8), generator=torch.Generator().manual_seed(0))


def train(tracker: Tracker, model: nn.Module) -> list[dict[str, float]]:
    """Train a model for a few steps, and return what each tick has for the loggers."""
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    metrics = []
    for step in range(STEPS + 1):
        metrics.append(tracker.follow(model, step, STEPS))
        loss = model(tokens()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [tick for tick in metrics if tick]


def test_a_plain_loop_is_tracked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 6), nn.GELU())
    tracker = Tracker(["init", "previous"], [CKA()], tokens(), tmp_path, sites="1", every=3, n_units=4)
    metrics = train(tracker, model)
    figures, records = tracker.publish()
    assert not figures and same(records, read_curves(tmp_path).drop_columns(["influence"]).to_pylist())
    assert [record["step"] for record in records if record["reference"] == "init"] == [0, 1, 2, 3, 6]
    assert [record["step"] for record in records if record["reference"] == "previous"] == [1, 2, 3, 6]
    assert all(math.isfinite(record["value"]) for record in records)
    values = [tick["dissimilarity/init/cka/1"] for tick in metrics]
    assert values == [record["dissimilarity"] for record in records if record["reference"] == "init"]
    assert values[0] == pytest.approx(0, abs=1e-6) and values[-1] > 1e-6


class Noisy(nn.Module):
    """A model that draws from every generator when it is made, and when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        draws()

    def untrained(self) -> nn.Module:
        """Return another one."""
        return Noisy()

    def forward(self, tokens: Tensor) -> Tensor:
        draws()
        return self.embed(tokens)


def draws() -> list[float]:
    """Return the next numbers of the global generators."""
    return [random.random(), np.random.rand(), torch.rand(()).item()]


@pytest.mark.usefixtures("unchecked")  # the checks of arguments draw from Python's generator
def test_a_training_draws_the_same_numbers_with_a_tracker(tmp_path: Path) -> None:
    """Its generators are those of the probe's loader, and of references as they are made and run."""
    model, loader = Noisy(), DataLoader(TensorDataset(tokens()), batch_size=5, shuffle=True)
    options: dict[str, Any] = {"load": lambda uri: Noisy(), "sites": "embed", "control": {"drop_top_norm": 1}}
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    order = [row for (batch,) in loader for row in batch.tolist()]
    torch.manual_seed(0)
    expected = draws()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    tracker = Tracker(["init", "untrained", "elsewhere"], [CKA()], loader, tmp_path, **options)
    tracker.follow(model, 0, 0)
    stitches = StitchingTracker("elsewhere", lambda n: torch.randint(20, (n, 8)), tmp_path, load=options["load"])
    stitches.start(TrainingState(model, 0, 4))
    assert draws() == expected
    inputs = tracker.reader.inputs[0].plan.probe.inputs
    assert isinstance(inputs, Tensor) and inputs.tolist() == order


def test_a_fault_while_a_state_is_kept_for_later_ends_no_training(tmp_path: Path, caplog: Any) -> None:
    """Step 15 is no tick, but the model of step 15 is what the last tick, at 25, compares."""

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fails = nn.Embedding(20, 6), False

        def forward(self, tokens: Tensor) -> Tensor:
            if self.fails:
                raise MemoryError("no memory for the capture")
            return self.embed(tokens)

    model = Failing()
    tracker = Tracker("previous", CKA(), tokens(), tmp_path, sites="embed", every=10, n_units=4)
    for step in range(26):
        model.fails = step == 15
        tracker.follow(model, step, 25)
    assert "step 15, reference previous: MemoryError: no memory for the capture" in caplog.text
    (row,) = [row for row in read_curves(tmp_path).to_pylist() if row["step"] == 25]
    assert math.isnan(row["value"]) and row["reference_step"] == 15 and "the model at step 15 is gone" in row["note"]


def test_a_second_training_begins_at_step_0_and_none_goes_back(tmp_path: Path) -> None:
    first, second = nn.Sequential(nn.Embedding(20, 6)), nn.Sequential(nn.Embedding(20, 6))
    tracker = Tracker("init", CKA(), tokens(), tmp_path, sites="0", every=2, n_units=4)
    for step in range(5):
        tracker.follow(first, step, 4)
    with pytest.raises(ValueError, match="expected step 4 or a later one, found 3; begin again at 0"):
        tracker.follow(first, 3)
    tracker.follow(second, 0)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    tracker.follow(second, 1)
    rows = read_curves(tmp_path).to_pylist()
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[0]["value"] == pytest.approx(1) and rows[1]["value"] < 0.99


def test_two_trackers_take_turns_in_a_folder_and_never_share_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(20, 6))
    first, second = (Tracker("init", CKA(), tokens(), tmp_path, sites="0", every=2, n_units=4) for _ in range(2))
    first.follow(model, 0)
    first.follow(model, 1)
    second.follow(model, 0)
    with pytest.raises(ValueError, match=r"another tracker now writes .*curves\.jsonl; give each its own folder"):
        first.follow(model, 2)
    second.follow(model, 1)
    first.follow(model, 0)
    assert [row["step"] for row in read_curves(tmp_path).to_pylist()] == [0]


def test_the_core_loads_no_trainer() -> None:
    code = "import sys, dissimilarity.tracking.tracker, dissimilarity.tracking.penalties; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dissimilarity.tracking.tracker" in done.stdout.split()
    assert "pytorch_lightning" not in done.stdout.split()
