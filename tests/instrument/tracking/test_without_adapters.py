"""The base of a model with adapters, whoever added them: what the model was before, while nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity import CKA, compare
from dissimilarity.capture.sites import resolve

peft = pytest.importorskip("peft")

from dissimilarity.huggingface import WithoutAdapters  # noqa: E402
from tests.instrument.tracking.test_huggingface import PROBE, SITES, curves, llama, train  # noqa: E402


class Wrapped(nn.Module):
    """A module around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **options})


def prompt() -> Any:
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)


def injected(**options: Any) -> Any:
    return peft.inject_adapter_in_model(lora(**options), llama())


def partly_off() -> nn.Module:
    model = injected()
    model.model.layers[0].self_attn.q_proj.enable_adapters(False)
    return model


ADAPTED: dict[str, Callable[[], nn.Module]] = {
    "PeftModel": lambda: peft.get_peft_model(llama(), lora(use_dora=True)),
    "in the layers": injected,
    "whole modules too": lambda: injected(modules_to_save=["norm"], trainable_token_indices=[1, 2]),
    "IA3": lambda: peft.inject_adapter_in_model(
        peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[], init_ia3_weights=False), llama()
    ),
    "one layer off": partly_off,
    "inside a module": lambda: Wrapped(peft.get_peft_model(llama(), lora())),
    "prompt": lambda: peft.get_peft_model(llama(), prompt()),
    "prompt inside a module": lambda: Wrapped(peft.get_peft_model(llama(), prompt())),
}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROBE).logits[:, -PROBE.shape[1] :]


@pytest.mark.parametrize("name", ADAPTED)
def test_the_base_is_the_model_before_and_the_model_stays_as_it_is(name: str) -> None:
    """Also after the training was continued, because none of its own weights train."""
    model = ADAPTED[name]().eval()
    list(model.parameters())[-1].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = logits(model)
    assert torch.equal(logits(WithoutAdapters(model, is_continued=True)), logits(llama().eval()))
    assert not torch.equal(before, logits(llama().eval())) and torch.equal(before, logits(model))
    assert flags == [parameter.requires_grad for parameter in model.parameters()]


def test_the_callback_finds_adapters_in_the_layers(tmp_path: Path) -> None:
    model = injected()
    (expected, *_) = compare(model, llama(), PROBE, SITES[1], CKA(), null=False).to_pylist()
    train(model, tmp_path, steps=1, references=["base"])
    assert curves(tmp_path)[0, "base", SITES[1], SITES[1]] == pytest.approx(expected["value"], abs=1e-5)
    assert expected["value"] < 0.99


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_a_start_that_changes_the_base_is_named(start: str) -> None:
    """The weights below the adapters are then what is left of them."""
    for model in (injected(init_lora_weights=start), peft.get_peft_model(llama(), lora(init_lora_weights=start))):
        below = next(weights for name, weights in model.named_parameters() if "q_proj.base_layer" in name)
        assert not torch.equal(below, llama().get_parameter("model.layers.0.self_attn.q_proj.weight"))
        with pytest.raises(ValueError, match=f"init_lora_weights='{start}' has changed the weights .* as hf:FOLDER"):
            WithoutAdapters(model)(PROBE)


@pytest.mark.parametrize("name", ["PeftModel", "in the layers", "inside a module", "prompt"])
def test_the_base_has_the_sites_of_the_model(name: str) -> None:
    model = ADAPTED[name]()
    for pattern in ("blocks.*", "*", "*.input"):
        assert resolve(WithoutAdapters(model), pattern) == resolve(model, pattern)


def test_a_base_at_module_paths(tmp_path: Path) -> None:
    model, path = peft.get_peft_model(llama(), lora()), "base_model.model.model.layers.1"
    (expected,) = compare(model, llama(), PROBE, f"{path}|model.layers.1", CKA(), null=False).to_pylist()
    train(model, tmp_path, steps=1, references=["init", "base"], sites=path)
    values = curves(tmp_path)
    assert values[0, "base", path, path] == pytest.approx(expected["value"], abs=1e-5)
    assert expected["value"] < 0.99
