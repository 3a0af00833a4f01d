"""GGUF files as references: `hf:FOLDER/FILE.gguf`."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from models.references import load

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf", reason="needs pip install -e '.[hf]'")
pytest.importorskip("accelerate", reason="needs pip install -e '.[hf]'")

HEADS = 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def written(path: Path, without: str = "", beyond: str = "", blocks: int = 2) -> Any:
    """Write a small Llama with random weights to `path` as llama.cpp would.

    Args:
        path: path of the file.
        without: a tensor that is left out.
        beyond: a tensor of the last block that is also there for the block after it.
        blocks: how many blocks the metadata says there are.
    """
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": HEADS}
    config = transformers.LlamaConfig(vocab_size=64, max_position_embeddings=32, rms_norm_eps=1e-5, **sizes)
    model = transformers.LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(32 // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    for name, weight in model.state_dict().items():
        tensor = weight.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp's rotary positions pair neighbors
            tensor = tensor.reshape(HEADS, 2, -1, 32).swapaxes(1, 2).reshape(tensor.shape)
        part = name.removesuffix(".weight")
        layer, _, inner = part.removeprefix("model.layers.").partition(".")
        short = f"blk.{layer}.{NAMES[inner]}" if part.startswith("model.layers.") else NAMES[part]
        if f"{short}.weight" != without:
            writer.add_tensor(f"{short}.weight", tensor.copy())
        if f"{short}.weight" == beyond:
            writer.add_tensor(f"{short}.weight".replace("blk.1", "blk.2"), tensor.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_a_reference(tmp_path: Path) -> None:
    model = written(tmp_path / "small.gguf")
    Tokenizer(BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    reference = load(f"hf:{tmp_path}/small.gguf")
    tokens = torch.randint(64, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(reference.model(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)
    assert reference.tokenizer is not None
    assert reference.provenance["tokenizer_path"] == str(tmp_path / "tokenizer.json")
    assert reference.provenance["pinned"] == f"hf:{tmp_path}/small.gguf" and len(reference.provenance["sha256"]) == 64
    assert {weight.dtype for weight in reference.model.parameters()} == {torch.float32}


def test_without_a_tokenizer_it_is_a_reference_too(tmp_path: Path) -> None:
    written(tmp_path / "small.gguf")
    assert load(f"hf:{tmp_path}/small.gguf").tokenizer is None


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    written(tmp_path / "small.gguf")
    os.truncate(tmp_path / "small.gguf", 3000)
    with pytest.raises(ValueError, match=r"cannot load .*small\.gguf"):
        load(f"hf:{tmp_path}/small.gguf")
    with pytest.raises(ValueError, match=r"there is no file .*large\.gguf.*hf:FOLDER/FILE\.gguf"):
        load(f"hf:{tmp_path}/large.gguf")


def test_a_gguf_file_with_more_layers_than_weights_is_rejected_before_it_takes_memory(tmp_path: Path) -> None:
    written(tmp_path / "small.gguf", blocks=2 * 10**9)
    with pytest.raises(ValueError, match=r"small\.gguf: its config says num_hidden_layers=2000000000"):
        load(f"hf:{tmp_path}/small.gguf")


def test_an_adapter_beside_a_gguf_file_names_no_other_model(tmp_path: Path) -> None:
    written(tmp_path / "small.gguf")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(ValueError, match=r"small\.gguf: it has an adapter_config\.json, which names another model"):
        load(f"hf:{tmp_path}/small.gguf")


def test_half_of_a_model_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    written(file, without="blk.1.ffn_down.weight")
    with pytest.raises(ValueError, match=r"small.gguf lacks weights that its metadata requires: .*layers.1.mlp.down"):
        load(f"hf:{file}")
    written(file, beyond="blk.1.ffn_down.weight")
    with pytest.raises(ValueError, match=r"for which its metadata has no place: blk\.2\.ffn_down\.weight"):
        load(f"hf:{file}")
    written(tmp_path / "small-00001-of-00002.gguf")
    with pytest.raises(ValueError, match=r"is part 1 of 2.*llama-gguf-split --merge small-00001-of-00002.gguf MERGED"):
        load(f"hf:{tmp_path}/small-00001-of-00002.gguf")


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    model = written(tmp_path / "SMALL.GGUF")
    tokens = torch.randint(64, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(
            load(f"hf:{tmp_path}/SMALL.GGUF").model(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5
        )
