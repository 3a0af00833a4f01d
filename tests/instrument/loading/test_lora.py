"""A LoRA adapter that is merged as weights are read computes what peft's merged model computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity.capture import offloaded
from dissimilarity.capture.forward import undisturbed
from tests.helpers.tiny_transformers import tiny_model

peft = pytest.importorskip("peft")

from dissimilarity.loading.pretrained import load_folder  # noqa: E402  needs transformers

TOKENS = torch.tensor([[5, 9, 7, 11], [6, 8, 10, 12]])


def adapter(folder: Path, kind: str, config: Any) -> Path:
    """Write a tiny model and a random adapter of it; return the folder of the adapter."""
    model = tiny_model(kind)
    model.save_pretrained(folder / "base")
    model.name_or_path = str(folder / "base")
    peft.get_peft_model(model, config).save_pretrained(folder / "adapter")
    return folder / "adapter"


def logits(folder: Path, block_by_block: bool) -> torch.Tensor:
    model = load_folder(folder, "hf:model", block_by_block)[0].eval()
    with undisturbed(model):
        return model(TOKENS).logits


@pytest.mark.parametrize(("kind", "modules"), [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn", "c_proj"])])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_is_merged_block_by_block(
    kind: str, modules: list[str], use_rslora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offloaded, "RESIDENT", 64)
    plain = {"r": 4, "lora_alpha": 12, "init_lora_weights": False, "use_rslora": use_rslora}
    folder = adapter(tmp_path, kind, peft.LoraConfig(target_modules=modules, fan_in_fan_out=kind == "gpt2", **plain))
    merged, base = logits(folder, True), logits(tmp_path / "base", False)
    torch.testing.assert_close(merged, logits(folder, False), rtol=1e-6, atol=1e-6 * merged.abs().max().item())
    assert (merged - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.LoraConfig(target_modules=["q_proj"], use_dora=True), "use_dora=True"),
        (peft.LoraConfig(target_modules=["q_proj"], rank_pattern={"q_proj": 2}), "rank_pattern"),
        (peft.LoraConfig(target_modules=["embed_tokens"]), "embed_tokens"),
        (peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "peft_type=IA3"),
    ],
)
def test_other_adapters_are_refused_with_what_to_type(config: Any, message: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path, "llama", config)
    with pytest.raises(ValueError, match=f"{message}.*leave out --block-by-block, or merge it"):
        load_folder(folder, "hf:adapter", True)
