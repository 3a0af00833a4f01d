"""study=export: models in the formats of other libraries, which those libraries read, with the same logits."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from analyze import analyze
from launch.cli.compose import compose
from models.references import load, tokenizer_hash
from tests.helpers.foreign import SHAPES, published_folder, random_net
from tests.helpers.tiny_run import in_process, tiny

transformers = pytest.importorskip("transformers")

FAMILIES = ("solu", "gelu", "attn_only", "pythia")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one run of each kind."""
    folder = tmp_path_factory.mktemp("export")
    for family in FAMILIES:
        assert in_process(tiny(folder, name=family, model=family, trainer__max_steps=2)) == 0
    return folder


def exported(home: Path, results: Path, to: str, *models: str) -> Path:
    uris = ",".join(models or [f"runs/{family}" for family in FAMILIES])
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={results}"]
    return analyze(compose(["study=export", f"study.to={to}", f"models=[{uris}]", *places], "analyze"))


TOKENS = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))


def test_hugging_face_reads_models_that_it_has_a_class_for_and_we_read_the_rest(home: Path, tmp_path: Path) -> None:
    folder = exported(home, tmp_path, "huggingface")
    for family, name in {"gelu": "GPT2LMHeadModel", "pythia": "GPTNeoXForCausalLM"}.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / family)
        assert type(model).__name__ == name
        ours = load(f"runs/{family}", home / "runs")
        with torch.no_grad():
            torch.testing.assert_close(model(TOKENS).logits, ours.model(TOKENS), rtol=0, atol=1e-4)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / family)
        assert ours.tokenizer is not None
        assert tokenizer("12: ein été")["input_ids"] == ours.tokenizer.encode("12: ein été").ids
        assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
        assert model.config.bos_token_id == tokenizer.bos_token_id and model.config.tie_word_embeddings is False
    for family in FAMILIES:
        back, ours = load(f"hf:{folder / family}"), load(f"runs/{family}", home / "runs")
        logits = back.model(TOKENS)
        torch.testing.assert_close(getattr(logits, "logits", logits), ours.model(TOKENS), rtol=0, atol=1e-4)
        assert back.tokenizer is not None and ours.tokenizer is not None
        assert tokenizer_hash(back.tokenizer) == tokenizer_hash(ours.tokenizer), (
            "it is the same tokenizer to a training"
        )
    assert json.loads((folder / "solu/config.json").read_text())["settings"]["family"] == "solu"
    summary = (folder / "summary.md").read_text()
    assert "transformers has no class for SoLU" in summary and "AutoModelForCausalLM (GPTNeoXForCausalLM)" in summary


def test_transformer_lens_reads_the_state_dict(home: Path, tmp_path: Path) -> None:
    lens = pytest.importorskip("transformer_lens", reason='needs pip install -e ".[bench]"')
    folder = exported(home, tmp_path, "transformer_lens")
    for family in FAMILIES:
        config = json.loads((folder / family / "config.json").read_text())
        model = lens.HookedTransformer(lens.HookedTransformerConfig.from_dict({**config, "device": "cpu"}))
        state = torch.load(folder / family / "model_final.pth", weights_only=True)
        model.load_and_process_state_dict(
            state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
        with torch.no_grad():
            ours = load(f"runs/{family}", home / "runs").model(TOKENS)
            torch.testing.assert_close(model(TOKENS), ours, rtol=0, atol=1e-4)
            assert torch.equal(load(f"tl:{folder / family}").model(TOKENS), ours)


def test_one_file_keeps_the_family_and_the_table_shows_the_result(home: Path, tmp_path: Path) -> None:
    folder = exported(home, tmp_path, "safetensors")
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert [row["family"] for row in rows] == list(FAMILIES)
    for row in rows:
        back, ours = load(row["reference"]), load(row["model"], home / "runs")
        assert back.settings == ours.settings and torch.equal(back.model(TOKENS), ours.model(TOKENS))
        assert row["largest_difference"] == 0 and row["sha256"] == back.provenance["sha256"]
        assert back.tokenizer is not None


def test_third_party_models_are_converted_to_ours_and_back(home: Path, tmp_path: Path) -> None:
    toy = published_folder(tmp_path / "toy", random_net(SHAPES["gelu"]), SHAPES["gelu"])
    first = exported(home, tmp_path / "first", "huggingface", f"tl:{toy}")
    second = exported(home, tmp_path / "second", "transformer_lens", f"hf:{first / 'toy'}")
    third = exported(home, tmp_path / "third", "safetensors", f"tl:{second / 'toy'}")
    tokens = TOKENS % 61
    ends = load(f"tl:{toy}").model(tokens), load(str(third / "toy/toy.safetensors")).model(tokens)
    assert torch.equal(*ends)


def test_an_exported_model_is_compared_with_the_run_it_came_from(home: Path, tmp_path: Path) -> None:
    file = exported(home, tmp_path, "safetensors", "runs/gelu") / "gelu/gelu.safetensors"
    shutil.copytree(exported(home, tmp_path / "other", "huggingface", "runs/gelu") / "gelu", tmp_path / "gpt2")
    models = f"models=[runs/gelu,{file},hf:{tmp_path / 'gpt2'}]"
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={tmp_path}"]
    folder = analyze(compose(["study=compare", models, "measures=fast", *places], "analyze"))
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert len(rows) == 3 and all(row["value"] == pytest.approx(1, abs=1e-5) for row in rows)


@pytest.mark.parametrize(
    ("to", "models", "message"),
    [
        ("pickle", "runs/solu", "study.to=pickle: expected huggingface, transformer_lens or safetensors"),
        ("huggingface", "", "expected models to export, such as models="),
        ("huggingface", "runs/nobody", "no run folder"),
        ("safetensors", "hf:{home}/bert", "bert: expected a GPT2LMHeadModel or a GPTNeoXForCausalLM.*BertModel"),
    ],
)
def test_models_that_cannot_be_exported_are_rejected(
    home: Path, tmp_path: Path, to: str, models: str, message: str
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=61, **sizes)).save_pretrained(home / "bert")
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={tmp_path}"]
    uris = models.format(home=home)
    with pytest.raises(ValueError, match=message):
        analyze(compose(["study=export", f"study.to={to}", f"models=[{uris}]", *places], "analyze"))
