"""The tracker in any training: any LightningModule, any references, any failure."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from dissimilarity import CCA, CKA, JSD, KL, Disagreement, LinearRegression, MutualKNN, Procrustes
from dissimilarity.functional import cka, disagreement, jsd, kl
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.tables.curves import read_curves
from dissimilarity.tracking.references import named_references

SEQUENCES, LENGTH, VOCABULARY = 12, 16, 50


class Layered(pl.LightningModule):
    """A stack of layers on embedded tokens."""

    def __init__(self, width: int = 8, depth: int = 2, seed: int = 0, lr: float = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(VOCABULARY, width)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth))
            self.head = nn.Linear(width, VOCABULARY)
        self.lr = lr

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def tokens(seed: int, count: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def loader_of(data: Any, batch_size: int = 4) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(data, batch_size=batch_size)


def fit(
    tracker: pl.Callback | None,
    module: pl.LightningModule,
    steps: int = 6,
    others: Sequence[pl.Callback] = (),
    loader: Any = None,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> pl.Trainer:
    kwargs = {"logger": False, "enable_checkpointing": any(isinstance(other, Checkpoint) for other in others), **kwargs}
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([] if tracker is None else [tracker]), *others],
        **kwargs,
    )
    trainer.fit(module, loader_of(tokens(1, 400, LENGTH)) if loader is None else loader, ckpt_path=ckpt_path)
    return trainer


def tracker_for(folder: Path, references: Any = ("init", "previous"), **kwargs: Any) -> DissimilarityTracker:
    defaults: dict[str, Any] = {
        "measures": [CKA(), Procrustes(), MutualKNN(k=5)],
        "probe": tokens(0, SEQUENCES, LENGTH),
        "sites": "layers.*",
        "every": 3,
        "heatmap_every": 6,
        "n_units": 4,
    }
    return DissimilarityTracker(references, folder=folder, **{**defaults, **kwargs})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_curves(folder).to_pylist()


def test_curves_of_a_foreign_module(tmp_path: Path) -> None:
    fit(tracker_for(tmp_path), Layered())
    rows = rows_of(tmp_path)
    assert sorted({row["step"] for row in rows}) == [0, 1, 2, 3, 6]
    start = [row for row in rows if row["step"] == 0]
    assert {row["reference"] for row in start} == {"init"}
    same = [row for row in start if row["site_a"] == row["site_b"]]
    # from float32 samples, an angle near zero is accurate to 4e-4: see Procrustes
    assert [row["dissimilarity"] for row in same] == pytest.approx([0.0] * len(same), abs=4e-4)
    ends = [row for row in rows if row["step"] == 6 and row["reference"] == "init"]
    assert len(ends) == 3 * 2 * 2, "all pairs of two sites at the heat-map step, three measures"
    assert all(row["dissimilarity"] > 1e-6 for row in ends)
    assert all(math.isfinite(row["stderr"]) for row in rows if row["step"])
    for column in ("null", "calibrated"):
        steps = {row["step"] for row in rows if math.isfinite(row[column]) and row["reference"] == "init"}
        assert steps == {0, 6}, "values have a null at heat maps alone"
    for row in rows:
        identical = 0.0 if row["measure"] == "procrustes" else 1.0
        expected = (row["value"] - row["null"]) / (identical - row["null"])
        assert row["calibrated"] == pytest.approx(expected, nan_ok=True)
    assert (tmp_path / "curves.parquet").exists()


def test_values_are_those_of_the_function_on_captured_samples(tmp_path: Path) -> None:
    """With a frozen teacher of another width and depth; the streams are computed by hand."""
    module, teacher = Layered(), Layered(width=12, depth=3, seed=5)
    fit(tracker_for(tmp_path, {"teacher": teacher}), module, steps=3)
    probe, pairs = tokens(0, SEQUENCES, LENGTH), []

    def streams(model: Layered) -> list[Tensor]:
        x, outputs = model.embedding(probe), []
        for layer in model.layers:
            outputs.append(layer(x).detach())
            x = x + outputs[-1]
        return [output.flatten(0, 1) for output in outputs]

    streams_a, streams_b = streams(module), streams(teacher)
    for row in rows_of(tmp_path):
        if row["step"] == 3 and row["measure"] == "cka":
            a, b = int(row["site_a"][-1]), int(row["site_b"][-1])
            sequence = torch.arange(SEQUENCES).repeat_interleave(LENGTH)
            expected = cka(streams_a[a].double(), streams_b[b].double(), units=sequence).item()
            assert row["value"] == pytest.approx(expected, abs=1e-5)
            pairs.append((a, b))
    assert (0, 0) in pairs and (1, 2) in pairs, "first with first, last with last"


def test_output_measures_are_computed_at_the_logits_only(tmp_path: Path) -> None:
    module = Layered()
    fit(tracker_for(tmp_path, references=["init"], measures=[CKA(), Disagreement(), KL(), JSD()]), module)
    rows = read_curves(tmp_path).to_pylist()
    outputs = [row for row in rows if row["measure"] in ("disagreement", "kl", "jsd")]
    assert {(row["site_a"], row["site_b"]) for row in outputs} == {("logits", "logits")}
    assert all(row["site_a"] != "logits" for row in rows if row["measure"] == "cka")
    first, last = ([row for row in outputs if row["step"] == step] for step in (0, 6))
    assert [row["value"] for row in first] == [0.0, 0.0, 0.0]
    with torch.no_grad():
        now, then = (net(tokens(0, SEQUENCES, LENGTH)).flatten(0, 1).double() for net in (module, Layered()))
    expected = {"disagreement": disagreement(now, then), "kl": kl(now, then), "jsd": jsd(now, then)}
    for row in last:
        assert row["value"] == pytest.approx(expected[row["measure"]].item(), abs=1e-6) and row["value"] > 0
        assert row["stderr"] > 0 and math.isfinite(row["null"]) and row["n_samples"] == SEQUENCES * LENGTH


def test_previous_is_a_fixed_number_of_steps_before(tmp_path: Path) -> None:
    """With a learning rate of 0 nothing moves; with another one, previous differs from init after two ticks."""
    fit(tracker_for(tmp_path / "still"), Layered(lr=0.0))
    still = [row for row in rows_of(tmp_path / "still") if row["site_a"] == row["site_b"]]
    assert max(abs(row["dissimilarity"]) for row in still) < 4e-4
    fit(tracker_for(tmp_path / "moving"), Layered())
    moving = {
        row["reference"]: row["dissimilarity"]
        for row in rows_of(tmp_path / "moving")
        if row["step"] == 3 and row["measure"] == "cka" and row["site_a"] == row["site_b"] == "layers.1"
    }
    assert 0 < moving["previous"] == moving["init"], "every=3: at step 3 both are step 0"
    steps = {row["step"]: row["reference_step"] for row in rows_of(tmp_path / "moving") if row["reference"] != "init"}
    assert steps == {1: 0, 2: 1, 3: 0, 6: 3}
    at_end = {row["reference"]: row["dissimilarity"] for row in rows_of(tmp_path / "moving") if row["step"] == 6}
    assert 0 < at_end["previous"] < at_end["init"]


def test_training_is_the_same_with_and_without_a_tracker(tmp_path: Path) -> None:
    tracked, untracked = Layered(), Layered()
    fit(tracker_for(tmp_path), tracked)
    fit(tracker_for(tmp_path / "unused", every=10**6, references=()), untracked)
    for weights, expected in zip(tracked.parameters(), untracked.parameters(), strict=True):
        assert torch.equal(weights, expected)


class Diverging(Layered):
    """A stack whose first layer returns NaN from the third update on."""

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training and self.global_step >= 3:
            self.layers[0][0].weight.data.fill_(float("nan"))  # pyright: ignore
        return super().forward(tokens)


def test_a_failing_measure_is_a_nan_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tracker_for(tmp_path), Diverging())
    broken = [row for row in rows_of(tmp_path) if row["step"] >= 3]
    assert broken and all(math.isnan(row["value"]) and math.isnan(row["dissimilarity"]) for row in broken)
    assert all("layers." in row["note"] and "NaN" in row["note"] for row in broken)
    notes = [record.getMessage() for record in caplog.records if "NaN or infinite" in record.getMessage()]
    assert len(notes) == len(set(notes)) > 0


def test_a_small_probe_set_has_one_warning_per_kind_that_names_all_measures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measures = [CKA(), Procrustes(), CCA(), LinearRegression()]
    fit(tracker_for(tmp_path, measures=measures, probe=tokens(0, 5, 4), n_units=2), Layered())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    biased = [message for message in warnings if "biased toward similar" in message]
    assert len(biased) == 1 and "procrustes is biased" in biased[0] and "(so for cca, linear_regression)" in biased[0]
    for reason in ("cannot be told apart", "has no standard error"):
        assert len([message for message in warnings if "no calibrated value" in message and reason in message]) <= 1
    kinds = {(row["measure"], row["note"]) for row in rows_of(tmp_path) if "biased" in row["note"]}
    assert {measure for measure, _ in kinds} == {"procrustes", "cca", "linear_regression"}


class Raising(CKA):
    """A measure with a fault."""

    def estimate(self, *sums: Any) -> Any:
        raise RuntimeError("a fault in a measure")


def test_a_fault_in_a_measure_does_not_end_the_training(tmp_path: Path) -> None:
    trainer = fit(tracker_for(tmp_path, measures=[Raising()]), Layered())
    assert trainer.global_step == 6
    rows = rows_of(tmp_path)
    assert rows and all(math.isnan(row["value"]) and "a fault in a measure" in row["note"] for row in rows)


def test_a_budget_leaves_the_start_and_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tracker_for(tmp_path, budget=1e-6), Layered(), 14)
    rows = rows_of(tmp_path)
    assert sorted({row["step"] for row in rows}) == [0, 1, 2, 3, 14]
    assert not any(row["note"] for row in rows)
    assert {row["reference_step"] for row in rows if row["step"] == 14} == {0, 11}
    assert len([text for text in caplog.messages if "after step 3, it measures every 15 steps" in text]) == 1


def test_a_module_without_common_sites_is_rejected_before_training(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="layers"):
        fit(tracker_for(tmp_path, {"other": other}), Layered())
    assert not (tmp_path / "curves.parquet").exists()


def test_half_precision_training_is_measured_in_its_own_precision(tmp_path: Path) -> None:
    fit(tracker_for(tmp_path), Layered(), precision="bf16-mixed")
    fit(tracker_for(tmp_path / "full", precision="32-true"), Layered(), precision="bf16-mixed")

    def values(folder: Path) -> list[float]:
        return [row["value"] for row in rows_of(folder) if row["step"] == 6 and row["measure"] == "cka"]

    assert values(tmp_path) == pytest.approx(values(tmp_path / "full"), abs=0.05)
    assert values(tmp_path) != values(tmp_path / "full")


def test_a_loader_is_a_probe_set(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(tokens(0, SEQUENCES, LENGTH))
    fit(tracker_for(tmp_path, probe=torch.utils.data.DataLoader(data, batch_size=5)), Layered())
    fit(tracker_for(tmp_path / "tensor"), Layered())

    def without_seconds(folder: Path) -> str:
        return json.dumps([{**row, "seconds": 0} for row in rows_of(folder)])

    assert without_seconds(tmp_path) == without_seconds(tmp_path / "tensor")


def test_duplicate_measures_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different labels"):
        tracker_for(tmp_path, measures=[CKA(), CKA()])


def test_labels_are_short_if_that_keeps_references_apart() -> None:
    assert list(named_references(["init", "runs/a", "runs/b@5"])) == ["init", "a", "b@5"]
    assert list(named_references(["x/a", "y/a", "runs/init", "init"])) == ["x/a", "y/a", "runs/init", "init"]
