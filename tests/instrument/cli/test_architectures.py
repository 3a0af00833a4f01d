"""The command compares every common architecture, also block by block, and explains those without names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dissimilarity.capture import offloaded
from dissimilarity.cli.command import main
from tests.helpers.tiny_transformers import VOCABULARY, tiny_model

KINDS = (
    "llama mistral qwen2 qwen3 gemma2 gemma3_text phi gpt2 gpt_neox opt bloom falcon mamba bert roberta distilbert "
    "deberta-v2 t5 bart mixtral"
).split()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(5, VOCABULARY - 2, size=(8, 6)))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_two_seeds_of_an_architecture_are_compared_block_by_block(
    kind: str, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offloaded, "RESIDENT", 64)
    for seed in (0, 1):
        torch.manual_seed(seed)
        tiny_model(kind).to(torch.bfloat16).save_pretrained(tmp_path / str(seed), max_shard_size="20KB")
    folders = [str(tmp_path / str(seed)) for seed in (0, 1)]
    arguments = ["--tokens", str(tokens), "--measures", "cka", "--format", "json", "--block-by-block"]
    assert main(["compare", *folders, *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) >= 2 and all(row["value"] <= 1 for row in rows)


def test_an_architecture_without_names_lists_modules_and_the_option(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model("albert").save_pretrained(tmp_path)
    arguments = ["compare", str(tmp_path), str(tmp_path), "--tokens", str(tokens), "--measures", "cka"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "it has no named sites here" in message and "encoder.albert_layer_groups" in message
    glob = message.partition("--sites '")[2].partition("'")[0]
    assert main([*arguments, "--sites", glob]) == 0
