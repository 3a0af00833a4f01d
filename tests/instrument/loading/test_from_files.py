"""Weights that are read as a model runs are those that transformers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity.capture import offloaded as offloading
from dissimilarity.capture.forward import first_result, undisturbed
from dissimilarity.capture.offloaded import in_float64, offloaded, rounded
from tests.helpers.tiny_transformers import tiny_model

transformers = pytest.importorskip("transformers")

from dissimilarity.loading.pretrained import load_folder  # noqa: E402  needs transformers

TOKENS = torch.tensor([[5, 9, 7, 11], [6, 8, 10, 12]])


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "RESIDENT", 64)


def run(model: Any) -> torch.Tensor:
    with undisturbed(model):
        more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
        return first_result(model(TOKENS, **more))


# tied weights, experts that are put together, a head that is left out, an encoder with a decoder, shared blocks
@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "bert", "t5", "albert", "bloom"])
def test_a_model_computes_the_same_from_its_files(kind: str, tmp_path: Path) -> None:
    tiny_model(kind).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    whole, from_files = (
        load_folder(tmp_path, "hf:model", block_by_block)[0].eval() for block_by_block in (False, True)
    )
    assert torch.equal(run(from_files), run(whole))
    large = [weight for weight in from_files.parameters() if weight.numel() > 64]
    assert large and all(weight.is_meta for weight in large)


def test_all_weights_can_be_in_another_precision(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    whole, from_files = (
        load_folder(tmp_path, "hf:model", block_by_block)[0].eval() for block_by_block in (False, True)
    )
    before = run(whole)
    for context in (in_float64, lambda model: rounded(model, torch.bfloat16)):
        outputs = []
        for model in (whole, from_files):
            with context(model):
                outputs.append(run(model))
        assert torch.equal(*outputs) and not torch.equal(outputs[0].float(), before)
        assert outputs[0].dtype == (torch.float64 if context is in_float64 else torch.float32)
    assert torch.equal(run(whole), before) and torch.equal(run(from_files), before)
    assert offloaded(whole) is None


def test_pickles_are_not_read_block_by_block(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="its weights are pickles.*save it again as safetensors"):
        load_folder(tmp_path, "hf:model", True)
