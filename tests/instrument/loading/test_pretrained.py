"""Models in Hugging Face's form as references: what loads, what is rejected."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dissimilarity.capture.sites import site_table
from dissimilarity.loading.context import context_of
from models.build import build_net
from models.initial_model import initial_model, load_into
from models.references import load, resolve
from tests.helpers.tiny_run import in_process, tiny
from train import train

transformers = pytest.importorskip("transformers")


def saved(folder: Path, name: str = "GPT2", **changes: Any) -> tuple[Path, Any]:
    """Return a model with random weights, in a folder as `save_pretrained` writes it."""
    torch.manual_seed(0)
    sizes: dict[str, dict[str, Any]] = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0},
        "Bert": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 32,
        },
    }
    config = getattr(transformers, f"{name}Config")(**{"vocab_size": 300, **sizes[name], **changes})
    kind = getattr(transformers, {"GPT2": "GPT2LMHeadModel", "Bert": "BertModel"}[name])
    model = kind(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_a_folder_of_save_pretrained_is_a_reference(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "gpt2")
    reference = load(f"hf:{folder}")
    tokens = torch.randint(300, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(reference.model(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    assert not reference.model.training and not any(weight.requires_grad for weight in reference.model.parameters())
    file = (folder / "model.safetensors").read_bytes()
    assert reference.provenance["sha256"] == hashlib.sha256(file).hexdigest()
    assert reference.provenance["pinned"] == f"hf:{folder.resolve()}" and reference.tokenizer is None


def test_half_precision_weights_are_run_in_float32(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "half")
    model.bfloat16().save_pretrained(folder)
    assert {weight.dtype for weight in load(f"hf:{folder}").model.parameters()} == {torch.float32}


def test_an_encoder_comes_without_a_head(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "bert", "Bert")
    assert type(load(f"hf:{folder}").model).__name__ == "BertModel"


def test_a_training_is_tracked_against_a_model_with_the_same_tokenizer(tmp_path: Path) -> None:
    assert in_process(tiny(tmp_path, name="first")) == 0
    folder, _ = saved(tmp_path / "gpt2")
    (folder / "tokenizer.json").write_text((tmp_path / "runs/first/tokenizer.json").read_text())
    cfg = tiny(tmp_path, references=f"[hf:{folder}]")
    assert in_process(cfg) == 0
    from dissimilarity.tables.curves import read_curves

    rows = read_curves(tmp_path / "runs/tiny").to_pylist()
    assert {row["reference"] for row in rows} == {"gpt2"}
    assert all("biased" in row["note"] or not row["note"] for row in rows)
    assert all(row["dissimilarity"] > 0 for row in rows)
    assert {row["site_b"] for row in rows} == {"blocks.0.resid_post", "blocks.1.resid_post"}


class Bomb:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_rejected_and_not_run(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()
    for write in (torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content))):
        write({"transformer.wte.weight": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="cannot load"):
            load(f"hf:{folder}")
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "expected config.json and model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "expected config.json and model.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "nobody"}'), "nobody"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "cannot load"),
    ],
)
def test_a_broken_folder_is_rejected_with_the_reason(tmp_path: Path, break_it: Any, message: str) -> None:
    folder, _ = saved(tmp_path / "gpt2")
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        load(f"hf:{folder}")


def test_missing_weights_are_not_filled_with_random_numbers(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "gpt2")
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    missing = "transformer.h.1.mlp.c_fc.weight"
    save_file(
        {key: tensor for key, tensor in state.items() if key != missing}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"lacks weights that its config.json requires: {missing}"):
        load(f"hf:{folder}")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert load(f"hf:{folder}").tokenizer is None, "an unembedding that is the embedding is stored once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.h.2.ln_1.weight": (32,)}, r"has no place: transformer\.h\.2\.ln_1\.weight"),
        ({"transformer.h.0.attn.c_attn.lora_A.weight": (8, 32)}, r"has no place: .*lora_A.*merge an adapter"),
        (
            {"transformer.h.0.mlp.c_fc.weight": (3, 3)},
            r"other shapes .*config\.json says: transformer\.h\.0\.mlp\.c_fc\.weight is \(3, 3\), expected \(32, 128\)",
        ),
        ({"transformer.h.0.attn.masked_bias": ()}, None),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    folder, model = saved(tmp_path / "gpt2")
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    state |= {key: torch.zeros(shape) for key, shape in change.items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    if message is None:
        assert load(f"hf:{folder}").model
        return
    with pytest.raises(ValueError, match=message):
        load(f"hf:{folder}")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_that_a_wrapper_gave_are_read(tmp_path: Path, prefix: str) -> None:
    folder, model = saved(tmp_path / "gpt2")
    state = {prefix + key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    loaded = load(f"hf:{folder}").model.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())


def test_an_adapter_is_not_left_out(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "gpt2")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge the adapter into its base with peft"):
        load(f"hf:{folder}")
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match="its adapter has peft_type=None"):
        load(f"hf:{folder}")


def test_an_encoder_of_an_encoder_decoder_is_read_and_trained_further(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32, "vocab_size": 50}
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    reference, tokens = load(f"hf:{tmp_path}"), torch.randint(2, 50, (2, 6))
    expected = model(tokens).last_hidden_state
    torch.testing.assert_close(reference.model(tokens).last_hidden_state, expected)
    assert "blocks.1.resid_post" in site_table(reference.model)
    initial = initial_model(reference, head=False)
    net = build_net({key: value for key, value in initial.settings.items() if key != "d_vocab"}, 50, 0).eval()
    load_into(net, initial.weights)
    features: Any = net.features
    torch.testing.assert_close(features(tokens, torch.ones_like(tokens, dtype=torch.bool)), expected)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', "\udcff"])
def test_a_broken_tokenizer_beside_weights_is_named(tmp_path: Path, content: str) -> None:
    folder, _ = saved(tmp_path / "gpt2")
    (folder / "tokenizer.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        load(f"hf:{folder}")


@pytest.mark.parametrize(("name", "context"), [("Roberta", 30), ("Camembert", 30), ("Bert", 32), ("XLMRoberta", 30)])
def test_the_context_is_the_length_that_the_model_reads(name: str, context: int) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, f"{name}Config")(vocab_size=50, max_position_embeddings=32, pad_token_id=1, **sizes)
    model = getattr(transformers, f"{name}Model")(config).eval()
    assert context_of(model) == context
    model(torch.randint(2, 50, (2, context)))
    with pytest.raises(Exception, match=r"(index|expanded)"):
        model(torch.randint(2, 50, (2, context + 1)))


def test_a_headless_copy_of_a_model_with_a_head_is_read(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "bert", "Bert")
    masked = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder))
    masked.save_pretrained(folder)
    assert type(load(f"hf:{folder}").model).__name__ == "BertModel", "without the pooler, which comes after every site"


def test_an_architecture_without_named_sites_lists_its_module_paths(tmp_path: Path) -> None:
    assert in_process(tiny(tmp_path, name="first")) == 0
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.AlbertConfig(vocab_size=300, embedding_size=8, max_position_embeddings=32, **sizes)
    transformers.AlbertModel(config).save_pretrained(tmp_path / "albert")
    (tmp_path / "albert/tokenizer.json").write_text((tmp_path / "runs/first/tokenizer.json").read_text())
    message = r"(?s)no named sites here.*so give module paths.*\.input or \.output.*encoder\.albert_layer_groups"
    with pytest.raises(ValueError, match=message):
        train(tiny(tmp_path, references=f"[hf:{tmp_path / 'albert'}]"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf:nowhere", "there is no folder .*nowhere"),
        ("hf:./nowhere/model", "there is no folder"),
        ("hf:org/model@main", "org/model was not downloaded before, and the hub cannot be reached .HF_HUB_OFFLINE"),
    ],
)
def test_a_missing_model_is_named(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=message):
        resolve(uri)
