"""The instrument where activations, models and trainings are on a GPU, against the same in float64 on the processor.

Every test runs on the processor too, so that a GPU is the only thing that a failure there can be due to.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product, for deterministic ones

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dissimilarity import CKA, MutualKNN, Procrustes, Tracker, compare, compare_many, intrinsic, read_curves
from dissimilarity.lightning import DissimilarityTracker
from tests.helpers.found_measures import SETTINGS, generator, make
from tests.instrument.comparison.test_compare import model, tokens
from tests.instrument.tracking.test_loops import EVERY, LAST, PROBE, net
from tests.instrument.tracking.test_tracker import LENGTH, SEQUENCES, Layered, loader_of
from tests.instrument.tracking.test_tracker import tokens as text

Acts = dict[str, Tensor]
Sides = tuple[Acts, Acts]
Curves = dict[tuple[str, str, int], tuple[float, ...]]

NUMBERS = ("value", "stderr", "null", "calibrated")
FEW = ["cka", "procrustes", "linear_regression_crossfit", "mutual_knn", "rbf_cka", "jsd"]
MEASURES = [make(setting) for setting in (SETTINGS if torch.cuda.is_available() else FEW)]
"""All of them where there is a GPU; elsewhere one of each kind, since other tests hold all to their definitions."""
WITH_INFLUENCE = [measure for measure in MEASURES if not measure.crossfit]
THREE = [CKA(), Procrustes(), MutualKNN(k=5)]
MASK = torch.arange(8) < torch.arange(24)[:, None] % 5 + 4


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Have torch refuse operations whose results depend on the order in which a GPU adds, as many trainings do."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def sides(sequences: int = 24, positions: int = 8, width: int = 6, first: float = 1.0) -> Sides:
    """Return two views of one signal in float32, the first token of each sequence `first` times as large."""
    g = generator(0)
    shared = torch.randn(sequences, positions, width, generator=g)

    def view() -> Acts:
        noise = 0.7 * torch.randn(sequences, positions, width, generator=g)
        samples = shared @ torch.randn(width, width, generator=g) + noise
        samples[:, 0] *= first
        return {"s": samples, "logits": samples}

    return view(), view()


def on(acts: Acts, device: str) -> Acts:
    return {site: samples.to(device) for site, samples in acts.items()}


def equal(found: Any, expected: Any, keys: Sequence[str] = NUMBERS, tolerance: float = 1e-5) -> None:
    """Check that two tables have the same numbers up to rounding."""
    records, others = found.to_pylist(), expected.to_pylist()
    assert len(records) == len(others) > 0
    for row, other in zip(records, others, strict=True):
        assert row["measure"] == other["measure"]
        for key in keys:
            bound = pytest.approx(other[key], rel=tolerance, abs=tolerance, nan_ok=True)
            assert row[key] == bound, (row["measure"], key, row["note"], other["note"])


def on_both(acts: Sides, device: str, **options: Any) -> tuple[Any, Any]:
    """Return a table in float32 on a device, and in float64 on the processor."""
    a, b = acts
    exact_a, exact_b = ({site: samples.double() for site, samples in side.items()} for side in acts)
    return compare(on(a, device), on(b, device), **options), compare(exact_a, exact_b, **options)


CASES: dict[str, dict[str, Any]] = {
    "sequences": {},
    "eight units": {"n_units": 8},
    "unequal lengths": {"mask": MASK},
    "unequal lengths, eight units": {"mask": MASK, "n_units": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_every_measure(case: str, device: str) -> None:
    equal(*on_both(sides(), device, measures=MEASURES, sites=["s"], **CASES[case]))


def test_every_measure_where_each_sample_is_a_unit(device: str) -> None:
    a, b = ({site: samples.flatten(0, 1) for site, samples in acts.items()} for acts in sides())
    equal(*on_both((a, b), device, measures=MEASURES, sites=["s"]))


def test_every_measure_beside_first_tokens_300_times_as_large(device: str) -> None:
    equal(*on_both(sides(first=300.0), device, measures=MEASURES, sites=["s"]))


def test_twenty_nulls(device: str) -> None:
    keys = *NUMBERS, "null_sd", "p"
    equal(*on_both(sides(), device, measures=THREE, sites=["s"], nulls=20), keys)
    equal(*on_both(sides(), device, measures=[CKA()], sites=["s"], nulls=5, mask=MASK), keys)


def test_fewer_samples_than_dimensions(device: str) -> None:
    equal(*on_both(sides(8, 4, 48), device, measures=THREE, sites=["s"]))


def test_error_bars_from_fast_products(device: str) -> None:
    """Of so many samples that nulls and error bars take the fastest products of a device."""
    found, expected = on_both(sides(64, 32, 128), device, measures=[CKA(), Procrustes()], sites=["s"])
    equal(found, expected, ["value"])
    equal(found, expected, ["null", "calibrated"], 2e-4)
    equal(found, expected, ["stderr"], 1e-2)


def test_every_measure_with_deterministic_algorithms(device: str, deterministic: None) -> None:
    a, b = (on(acts, device) for acts in sides())
    for options in CASES.values():
        rows = compare(a, b, measures=MEASURES, sites=["s"], **options).to_pylist()
        assert all(math.isfinite(row["value"]) for row in rows), [row["note"] for row in rows if row["note"]]


def test_influences_of_tokens(device: str) -> None:
    found, expected = on_both(sides(), device, measures=WITH_INFLUENCE, sites=["s"], influence=True)
    equal(found, expected)
    for row, other in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        assert row["token_influence"] == pytest.approx(other["token_influence"], rel=1e-3, abs=1e-6, nan_ok=True)
        assert row["token_index"] == other["token_index"]


def test_one_model_alone(device: str) -> None:
    acts = sides()[0]
    for options in CASES.values():
        expected = intrinsic({"s": acts["s"].double()}, **options)
        equal(intrinsic(on({"s": acts["s"]}, device), **options), expected, ("value", "stderr"))
    equal(intrinsic(model().to(device), tokens()), intrinsic(model(), tokens()), ("value", "stderr"))


def two_models(first: str, second: str) -> tuple[nn.Module, nn.Module]:
    return model(16, 2).to(first), model(24, 3, seed=1).to(second)


def test_two_models(device: str) -> None:
    """Both there, and one of them on the processor."""

    def compared(*devices: str) -> Any:
        return compare(*two_models(*devices), tokens=tokens(), measures=THREE)

    expected = compared("cpu", "cpu")
    for devices in {(device, device), ("cpu", device), (device, "cpu")}:
        equal(compared(*devices), expected)


def test_many_models_and_saved_activations(device: str) -> None:
    def compared(*devices: str) -> Any:
        a, b = two_models(*devices)
        return compare_many(
            {"a": a, "saved": {"blocks.0.resid_post": sides(21)[0]["s"]}, "b": b}, tokens(), measures=THREE
        )

    expected = compared("cpu", "cpu")
    for devices in {(device, device), ("cpu", device)}:
        equal(compared(*devices), expected)


def test_ids_of_samples_there(device: str) -> None:
    a, b = (on(acts | {"sample_ids": torch.arange(24)}, device) for acts in sides())
    assert len(compare(a, {**b, "sample_ids": torch.arange(24)}, measures=[CKA()], sites=["s"])) == 1


def tracker_in(folder: Path) -> Tracker:
    return Tracker(["init", "previous"], THREE, PROBE, folder, sites="1", every=EVERY, n_units=4)


def train(tracker: Tracker, module: nn.Module, start: int, stop: int) -> None:
    """Change the weights at random, which is the same change on any device."""
    for step in range(start, stop):
        tracker.follow(module, step, LAST)
        g = generator(step)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=g).to(parameter.device))
    if stop == LAST:
        tracker.follow(module, LAST, LAST)


def curves_of(folder: Path) -> Curves:
    """Return the numbers of each row; all rows have values."""
    rows = read_curves(folder).to_pylist()
    assert rows and all(math.isfinite(row["value"]) and "cannot" not in row["note"] for row in rows)
    return {(row["reference"], row["measure"], row["step"]): tuple(row[key] for key in NUMBERS) for row in rows}


def same_curves(found: Curves, expected: Curves, tolerance: float, columns: int = len(NUMBERS)) -> None:
    """Check the first columns of `NUMBERS` of two trainings."""
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        assert found[key][:columns] == pytest.approx(numbers[:columns], rel=0, abs=tolerance, nan_ok=True), key


def test_a_loop_has_the_curves_of_the_processor(device: str, tmp_path: Path) -> None:
    for name in {"cpu", device}:
        train(tracker_in(tmp_path / name), net().to(name), 0, LAST)
    found, expected = curves_of(tmp_path / device), curves_of(tmp_path / "cpu")
    for key, numbers in expected.items():
        if key[2] == 0:  # from float32 samples, an angle near zero is accurate to 4e-4
            assert found.pop(key)[0] == pytest.approx(numbers[0], abs=4e-4)
    later = {key: numbers for key, numbers in expected.items() if key[2]}
    same_curves(found, later, 1e-4, columns=1)
    # Neighbors that are equally far up to rounding change places between sequences, which shows in the errors.
    of_sums = {key: numbers for key, numbers in later.items() if not key[1].startswith("mutual_knn")}
    same_curves({key: found[key] for key in of_sums}, of_sums, 1e-4)


def test_a_loop_continues_to_the_last_bit(device: str, tmp_path: Path) -> None:
    train(tracker_in(tmp_path / "whole"), net().to(device), 0, LAST)
    tracker, module = tracker_in(tmp_path / "cut"), net().to(device)
    train(tracker, module, 0, 14)
    torch.save({"model": module.state_dict(), "tracker": tracker.state_dict()}, tmp_path / "checkpoint.pt")
    checkpoint = torch.load(tmp_path / "checkpoint.pt")
    tracker, module = tracker_in(tmp_path / "cut"), net().to(device)
    module.load_state_dict(checkpoint["model"])
    tracker.load_state_dict(checkpoint["tracker"])
    train(tracker, module, 14, LAST)
    same_curves(curves_of(tmp_path / "cut"), curves_of(tmp_path / "whole"), 0.0)


def fit(device: str, folder: Path | None) -> Layered:
    """Return a model after a training with Lightning, with or without a tracker."""
    torch.manual_seed(0)
    probe, module = text(0, SEQUENCES, LENGTH), Layered()
    callbacks: list[pl.Callback] = []
    if folder is not None:
        callbacks = [DissimilarityTracker(["init", "previous"], THREE, probe, folder, sites="layers.*", every=3)]
    trainer = pl.Trainer(
        max_steps=7,
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        deterministic=True,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader_of(text(1, 40, LENGTH)))
    finally:
        torch.use_deterministic_algorithms(False)
    return module


def test_lightning_trains_the_same_model_with_a_tracker(device: str, tmp_path: Path) -> None:
    trained = {name: fit(name, tmp_path / name) for name in {"cpu", device}}
    for weight, other in zip(trained[device].parameters(), fit(device, None).parameters(), strict=True):
        assert torch.equal(weight, other)
    same_curves(curves_of(tmp_path / device), curves_of(tmp_path / "cpu"), 1e-3, columns=1)


def test_the_trainer_of_transformers_in_half_precision_with_adapters(device: str, tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    from dissimilarity.huggingface import DissimilarityCallback

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ids = torch.randint(64, (40, 16), generator=generator(2))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=device == "cpu",
        bf16=True,
        learning_rate=1e-2,
        save_strategy="no",
        disable_tqdm=True,
    )
    references = ["init", "previous", "base"]
    callback = DissimilarityCallback(ids[:24], references, [CKA()], every=3)
    trainer = transformers.Trainer(
        model=peft.get_peft_model(base, lora),
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        callbacks=[callback],
    )
    trainer.train()
    assert next(trainer.model.parameters()).device.type == device
    curves = curves_of(tmp_path / "dissimilarity")
    assert {reference for reference, *_ in curves} == set(references)
    assert curves["init", "cka", 4][0] < 0.9999 and curves["base", "cka", 4][0] < 0.9999
