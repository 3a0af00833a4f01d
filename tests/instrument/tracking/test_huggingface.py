"""The callback for the Trainer of transformers: curves of any model, with and without adapters, also when resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity import CKA, compare, read_curves
from tests.instrument.tracking.test_wheel import snippets

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import dissimilarity.huggingface  # noqa: E402
from dissimilarity.huggingface import DissimilarityCallback  # noqa: E402

SITES = ("blocks.0.resid_post", "blocks.1.resid_post")


def llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def adapted(seed: int = 0) -> nn.Module:
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(llama(seed), lora)


def tokens(seed: int, sequences: int) -> torch.Tensor:
    return torch.randint(64, (sequences, 16), generator=torch.Generator().manual_seed(seed))


PROBE = tokens(1, 24)


def train(model: nn.Module, folder: Path, /, steps: int = 7, resume: bool | Path = False, **choices: Any) -> Any:
    """Train a model for some steps, with ticks at 0, 1, 2, 3, 6 and the last one, and return its trainer."""
    more = choices.pop("more", ())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        report_to=choices.pop("report_to", "none"),
        use_cpu=True,
        learning_rate=1e-2,
        seed=0,
        disable_tqdm=True,
        **{"save_steps": 4, **choices.pop("arguments", {})},
    )
    defaults = {"references": ["init", "previous", "base"], "every": 3, "heatmap_every": 6, "measures": [CKA()]}
    callback = DissimilarityCallback(PROBE, **{**defaults, **choices})
    data = [{"input_ids": part, "labels": part} for part in tokens(2, 40)]
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[callback, *more]
    )
    trainer.train(resume_from_checkpoint=str(resume) if isinstance(resume, Path) else resume or None)
    return trainer


def curves(folder: Path) -> dict[tuple[int, str, str, str], float]:
    rows = read_curves(folder / "dissimilarity").to_pylist()
    assert not any(row["note"] for row in rows)
    return {(row["step"], row["reference"], row["site_a"], row["site_b"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """Return the folder of a fine-tuning with adapters, and the model."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, train(adapted(), folder).model


def test_adapters_are_compared_with_their_start_and_with_their_base(tuned: tuple[Path, nn.Module]) -> None:
    folder, model = tuned
    values = curves(folder)
    assert {step for step, *_ in values} == {0, 1, 2, 3, 6, 7}
    for reference, module in (("init", adapted()), ("base", llama())):
        table = compare(model, module, PROBE, sites=list(SITES), measures=CKA(), null=False)
        for row in table.to_pylist():
            key = (7, reference, row["site_a"], row["site_b"])
            assert values[key] == pytest.approx(row["value"], abs=1e-5)
    assert values[7, "init", SITES[1], SITES[1]] > values[7, "base", SITES[1], SITES[1]]


def test_previous_has_its_lag_at_the_end_too(tuned: tuple[Path, nn.Module]) -> None:
    rows = read_curves(tuned[0] / "dissimilarity").to_pylist()
    steps = {row["step"]: row["reference_step"] for row in rows if row["reference"] == "previous"}
    assert steps == {1: 0, 2: 1, 3: 0, 6: 3, 7: 4}


def test_a_resumed_training_has_the_same_curves(tuned: tuple[Path, nn.Module], tmp_path: Path) -> None:
    shutil.copytree(tuned[0], tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-7")
    train(adapted(), tmp_path / "cut", resume=True)
    assert curves(tmp_path / "cut") == curves(tuned[0])


def test_a_checkpoint_elsewhere_is_resumed_with_its_curves(tuned: tuple[Path, nn.Module], tmp_path: Path) -> None:
    shutil.copytree(tuned[0] / "dissimilarity", tmp_path / "dissimilarity")
    folder = tmp_path / "dissimilarity"
    train(adapted(), tmp_path / "elsewhere", resume=tuned[0] / "checkpoint-4", folder=folder)
    assert curves(tmp_path) == curves(tuned[0])


def test_the_file_of_older_checkpoints_is_read(tuned: tuple[Path, nn.Module], tmp_path: Path) -> None:
    shutil.copytree(tuned[0], tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "checkpoint-7")
    file = tmp_path / "old" / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    (saved,) = state["stateful_callbacks"].pop("dissimilarity")["folders"].values()
    file.with_name("dissimilarity.json").write_text(json.dumps(saved))
    file.write_text(json.dumps(state))
    train(adapted(), tmp_path / "old", resume=True)
    assert curves(tmp_path / "old") == curves(tuned[0])


def test_two_callbacks_each_continue_their_curves(tmp_path: Path) -> None:
    def run(resume: bool) -> list[dict[tuple[int, str, str, str], float]]:
        first, second = tmp_path / "first", tmp_path / "second"
        folder = second / "dissimilarity"
        more = [DissimilarityCallback(tokens(5, 24), ["init", "previous"], CKA(), folder, every=2)]
        choices: dict[str, Any] = {"folder": first / "dissimilarity", "references": ["init", "previous"]}
        train(llama(), tmp_path, steps=6, resume=resume, more=more, **choices)
        return [curves(first), curves(second)]

    whole = run(resume=False)
    shutil.rmtree(tmp_path / "checkpoint-6")
    assert run(resume=True) == whole


def test_two_callbacks_of_a_trainer_need_two_folders(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"steps": 1, "references": ["init"]}
    before = train(llama(), tmp_path, **choices)
    with pytest.raises(ValueError, match=r"two callbacks of one Trainer write to .*; give each its own"):
        train(llama(), tmp_path, **choices, more=[DissimilarityCallback(PROBE, folder=tmp_path / "dissimilarity")])
    train(llama(), tmp_path, **choices)
    assert before.state.global_step == 1 and max(step for step, *_ in curves(tmp_path)) == 1


def test_the_training_is_that_without_the_callback(tuned: tuple[Path, nn.Module], tmp_path: Path) -> None:
    model = train(adapted(), tmp_path, references=[], every=10**6).model
    for weights, expected in zip(tuned[1].parameters(), model.parameters(), strict=True):
        assert torch.equal(weights, expected)


def test_base_leaves_frozen_weights_of_adapters_frozen(tmp_path: Path) -> None:
    """A gradient of frozen weights would count in the norm that gradients are clipped to."""
    trained = []
    for references in (["base"], []):
        model = adapted()
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        flags = [parameter.requires_grad for parameter in model.parameters()]
        train(model, tmp_path, steps=2, references=references, arguments={"max_grad_norm": 1e-3, "optim": "sgd"})
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
        trained.append(list(model.parameters()))
    assert all(torch.equal(weights, expected) for weights, expected in zip(*trained, strict=True))


def test_a_learned_prompt_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Activations are those of the text where the same vectors come before it as embeddings."""
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(llama(), prompt)
    vectors = model.get_prompt(24).detach()
    with torch.no_grad():
        inputs = torch.cat([vectors, llama().get_input_embeddings()(PROBE)], 1)
        first = llama().model(inputs_embeds=inputs, output_hidden_states=True).hidden_states[1][:, 4:]
        second = llama().model(PROBE, output_hidden_states=True).hidden_states[1]
    train(model, tmp_path, steps=1, references=["init", "base"])
    (expected,) = compare({"s": first}, {"s": second}, measures=CKA(), null=False).to_pylist()
    values = curves(tmp_path)
    assert values[0, "init", SITES[0], SITES[0]] == pytest.approx(1)
    assert values[0, "base", SITES[0], SITES[0]] == pytest.approx(expected["value"], abs=1e-5)


def test_without_adapters_the_base_is_the_start(tmp_path: Path) -> None:
    train(llama(), tmp_path, steps=2, references=["init", "base"])
    values = curves(tmp_path)
    for (step, reference, site_a, site_b), value in values.items():
        assert reference != "base" or value == values[step, "init", site_a, site_b]


def test_numbers_go_to_the_reporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reporter that fails does not end the training."""
    logged: dict[int, set[str]] = {}

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.setdefault(state.global_step, set()).update(logs)
            raise OSError("no network")

    def reporters(names: Any) -> list[type]:
        return [Reporter]

    monkeypatch.setattr(dissimilarity.huggingface, "get_reporting_integration_callbacks", reporters)
    train(llama(), tmp_path, steps=2, references=["init"])
    assert logged.keys() == {0, 1, 2}
    assert f"dissimilarity/init/cka/{SITES[0]}" in logged[2]
    more = [DissimilarityCallback(tokens(5, 24), ["init"], CKA(), tmp_path / "other", every=2)]
    logged.clear()
    train(llama(), tmp_path, steps=2, references=["init"], more=more)
    for name in ("dissimilarity", "other"):
        assert all(f"dissimilarity/{name}/init/cka/{SITES[0]}" in keys for keys in logged.values())
    assert f"dissimilarity/init/cka/{SITES[0]}" not in logged[0]


def test_a_best_model_that_is_loaded_at_the_end_is_not_the_last_step(tmp_path: Path) -> None:
    callback = DissimilarityCallback(PROBE, ["init"], CKA(), tmp_path / "tracked", every=3)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    state, control, model = transformers.TrainerState(max_steps=9), transformers.TrainerControl(), llama()
    state.is_world_process_zero = True
    callback.on_train_begin(arguments, state, control, model=model)
    callback.on_step_begin(arguments, state, control, model=model)
    state.global_step, state.best_model_checkpoint, arguments.load_best_model_at_end = 5, "checkpoint-1", True
    callback.on_train_end(arguments, state, control, model=model)
    rows = read_curves(tmp_path / "tracked").to_pylist()
    assert {row["note"] for row in rows if row["step"] == 5} == {
        "the best model was loaded before the end could be measured"
    }


def test_an_early_stop_is_measured_before_the_best_model_is_loaded(tmp_path: Path) -> None:
    class Stop(transformers.TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 4

    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    arguments = {**best, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    trainer = train(llama(), tmp_path, references=["init"], more=[Stop()], arguments=arguments)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    last = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    for row in compare(last, llama(), PROBE, sites=list(SITES), measures=CKA(), null=False).to_pylist():
        value = curves(tmp_path)[4, "init", row["site_a"], row["site_b"]]
        assert value == pytest.approx(row["value"], abs=1e-5)


def test_a_base_whose_own_weights_train_is_known_until_the_training_continues(tmp_path: Path) -> None:
    """A note instead of the value of another model."""
    lora = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 64, "n_positions": 32}

    def model() -> Any:
        torch.manual_seed(0)
        return peft.get_peft_model(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)), lora)

    train(model(), tmp_path, steps=4)
    train(model(), tmp_path, steps=7, resume=True)
    rows = [row for row in read_curves(tmp_path / "dissimilarity").to_pylist() if row["reference"] == "base"]
    for row in rows:
        assert (row["value"] == row["value"]) == (row["step"] <= 4)
        assert row["step"] <= 4 or "weights beside the adapters train too" in row["note"]
    assert max(row["step"] for row in rows) == 7


def test_an_unknown_uri_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected init, previous, base, hf:FOLDER"):
        train(llama(), tmp_path, steps=1, references=["runs/a"])


def test_the_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llama(5).save_pretrained("other")
    args = transformers.TrainingArguments("out", max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True)
    names: dict[str, Any] = {"probe_tokens": PROBE, "lora_model": adapted(), "args": args}
    names["train_dataset"] = [{"input_ids": part, "labels": part} for part in tokens(2, 40)]
    exec(snippets()["huggingface"].replace("hf:other/model", "hf:other"), names)
    assert {reference for _, reference, *_ in curves(tmp_path / "out")} == {"init", "base", "previous", "other"}
