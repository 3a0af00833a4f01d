"""The callback in the ways in which people run the Trainer of transformers: always the curves of that training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity import CKA, read_curves
from tests.helpers.processes import in_processes
from tests.instrument.tracking.test_huggingface import PROBE, SITES, llama, tokens

transformers = pytest.importorskip("transformers")

import dissimilarity.huggingface  # noqa: E402
from dissimilarity.huggingface import DissimilarityCallback  # noqa: E402


def train(folder: Path, callback: Any = None, **arguments: Any) -> dict[tuple[int, str, str], float]:
    """Train for two updates on four texts each, which have a column that no model takes, and return the curves."""
    defaults = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "report_to": "none"}
    quiet = {"use_cpu": True, "learning_rate": 1e-2, "seed": 0, "disable_tqdm": True}
    args = transformers.TrainingArguments(str(folder), **{**defaults, **quiet, **arguments})
    options: dict[str, Any] = {"references": ["init", "previous"], "every": 2, "measures": [CKA()], "sites": SITES}
    callback = callback or DissimilarityCallback(PROBE, **options)
    data = [{"input_ids": part, "labels": part, "source": "a book"} for part in tokens(2, 40)]
    transformers.Trainer(model=llama(), args=args, train_dataset=data, callbacks=[callback]).train()
    rows = read_curves(folder / "dissimilarity").to_pylist()
    assert not any(row["note"] for row in rows)
    return {
        (row["step"], row["reference"], row["site_a"]): row["value"] for row in rows if row["site_a"] == row["site_b"]
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, str], float]:
    """Return the curves of one process with whole batches, without an evaluation."""
    curves = train(tmp_path_factory.mktemp("plain"))
    assert {step for step, *_ in curves} == {0, 1, 2} and all(map(math.isfinite, curves.values()))
    return curves


WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "accumulated": ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, 1e-4),
    "compiled": ({"torch_compile": True, "torch_compile_backend": "eager"}, 1e-5),
    "bf16": ({"bf16": True}, 0.05),
    "evaluated": ({"eval_strategy": "no", "logging_steps": 1, "gradient_checkpointing": True}, 1e-5),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_curves_are_those_of_the_training(way: str, tmp_path: Path, plain: dict[Any, float]) -> None:
    arguments, tolerance = WAYS[way]
    curves = train(tmp_path, **arguments)
    assert curves.keys() == plain.keys()
    assert curves == pytest.approx(plain, abs=tolerance)


def test_two_processes_have_the_curves_of_one(tmp_path: Path, plain: dict[Any, float]) -> None:
    first, second = in_processes(train, tmp_path, tmp_path / "two", per_device_train_batch_size=2)
    assert first == second == pytest.approx(plain, abs=1e-4)


class Wandb:
    """The functions of wandb that the reporter and the callback call."""

    class Image:
        def __init__(self, image: Any) -> None:
            self.shape = image.shape

    class plot:  # noqa: N801
        @staticmethod
        def line_series(xs: Any, ys: Any, keys: Any, title: str, xname: str, split_table: bool) -> Any:
            return {"title": title, "lines": dict(zip(keys, zip(xs, ys, strict=True), strict=True))}

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.alerts: list[str] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def alert(self, title: str, text: str) -> None:
        self.alerts.append(f"{title}: {text}")


def test_wandb_has_sections_heat_maps_and_alerts_that_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()

    class Reporter(transformers.TrainerCallback):
        _wandb, _initialized = wandb, True

    class Collapse(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                with torch.no_grad():
                    model.model.embed_tokens.weight[:, 1:] = 0

    monkeypatch.setattr(dissimilarity.huggingface, "get_reporting_integration_callbacks", lambda names: [Reporter])
    alerts = [{"rule": "collapse", "stop": True}]
    callback = DissimilarityCallback(PROBE, "init", CKA(), every=1, heatmap_every=2, sites=["embed"], alerts=alerts)
    args = transformers.TrainingArguments(
        str(tmp_path), max_steps=9, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True
    )
    data = [{"input_ids": part, "labels": part} for part in tokens(2, 40)]
    trainer = transformers.Trainer(model=llama(), args=args, train_dataset=data, callbacks=[Collapse(), callback])
    trainer.train()
    assert trainer.state.global_step == 2
    assert [row["train/global_step"] for row in wandb.rows] == [0, 1, 2]
    assert all("dissimilarity init cka/embed" in row for row in wandb.rows)
    chart = wandb.rows[-1]["layers/init cka"]
    steps, values = chart["lines"]["embed"]
    assert steps == [0, 1, 2] and values == [row["dissimilarity init cka/embed"] for row in wandb.rows]
    assert len(wandb.alerts) == 1 and wandb.alerts[0].startswith("collapse: step 2: the effective rank of embed fell")
