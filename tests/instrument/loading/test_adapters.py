"""Folders of peft adapters as references."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity.loading.places import base_folder
from models.references import load
from tests.instrument.loading.test_pretrained import saved

peft = pytest.importorskip("peft")
huggingface_hub = pytest.importorskip("huggingface_hub")


def adapter(folder: Path, base: Path, **changes: Any) -> Path:
    """Write a random LoRA adapter of a model, with other settings in its config."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    peft.get_peft_model(model, config).save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_an_adapter_is_its_base_with_the_adapter_merged(tmp_path: Path) -> None:
    base, model = saved(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", base)
    tokens = torch.randint(300, (2, 16))
    reference = load(f"hf:{folder}")
    expected = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        torch.testing.assert_close(reference.model(tokens).logits, expected(tokens).logits)
        assert not torch.allclose(reference.model(tokens).logits, load(f"hf:{base}").model(tokens).logits)
    assert reference.provenance["sha256"] != load(f"hf:{base}").provenance["sha256"]
    assert not any(weight.requires_grad for weight in reference.model.parameters())


def test_a_relative_base_is_looked_for_here_and_beside_the_adapter(tmp_path: Path, monkeypatch: Any) -> None:
    base, _ = saved(tmp_path / "models" / "base")
    folder = adapter(tmp_path / "models" / "adapter", base, base_model_name_or_path="../base")
    monkeypatch.chdir(tmp_path)
    assert base_folder(folder, "adapter").samefile(base) and load("hf:models/adapter").model is not None
    near, _ = saved(tmp_path / "base")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert base_folder(folder, "adapter").samefile(near)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "XLORA"}, "peft_type=XLORA; expected one of LORA"),
        ({"peft_type": None}, "peft_type=None"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config=.*merge it"),
        ({"layer_replication": [[0, 10**6]]}, "layer_replication"),
        ({"target_modules": "(a*)*b"}, r"target_modules=\(a\*\)\*b; expected names"),
        ({"rank_pattern": {"(a*)*b": 2}}, "rank_pattern"),
        ({"rank_pattern": {"c_attn": 10**9}}, "rank 1000000000; expected a whole number"),
        ({"r": 10**9}, "rank 1000000000; expected a whole number"),
        ({"r": "2"}, "rank 2; expected a whole number up to 8192"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path=None"),
        (
            {"base_model_name_or_path": "evil/model"},
            "'evil/model', is no folder of a model at .*/evil/model or .*/adapter/evil/model, nor in the cache",
        ),
    ],
)
def test_settings_that_do_more_than_change_weights_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    base, _ = saved(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", base, **changes)
    download = huggingface_hub.snapshot_download

    def from_the_cache(*arguments: Any, **options: Any) -> Any:
        assert options.get("local_files_only"), "a file asked for the network"
        return download(*arguments, **options)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", from_the_cache)
    with pytest.raises(ValueError, match=message):
        load(f"hf:{folder}")


def test_pickled_weights_of_an_adapter_are_not_read(tmp_path: Path) -> None:
    base, _ = saved(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="has no adapter_model.safetensors"):
        load(f"hf:{folder}")


def test_an_adapter_of_another_model_does_not_fit(tmp_path: Path) -> None:
    base, _ = saved(tmp_path / "base")
    other, _ = saved(tmp_path / "other", n_embd=16)
    folder = adapter(tmp_path / "adapter", base, base_model_name_or_path=str(other))
    with pytest.raises(ValueError, match="cannot load .*adapter: "):
        load(f"hf:{folder}")
