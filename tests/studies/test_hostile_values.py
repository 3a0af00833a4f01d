"""Values in a stranger's files that no command could type, and text that would command the terminal."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dissimilarity.loading.untrusted import check_plain
from launch.cli import messages
from launch.run.config_file import read_yaml
from tests.cli.test_hostile import study
from tests.helpers.hostile import Runs

COMMAND = "\x1b[2J"
"""It clears the screen."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs.at(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def runs(written: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return written.copied_to(tmp_path)


BYTE_PAIRS = "data.tokenizers.BytePairs"
VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "memory for a vocabulary": (
        {"tokenizer": {"_target_": BYTE_PAIRS, "vocab_size": 4 * 10**9}},
        "tokenizer.vocab_size",
    ),
    "beyond every integer": ({"tokenizer": {"_target_": BYTE_PAIRS, "vocab_size": 10**30}}, "tokenizer.vocab_size"),
    "text for a number": ({"batch_size": "x"}, "batch_size"),
    "a number below zero": ({"n_ctx": -5}, "n_ctx"),
    "an argument in a list": (
        {
            "source": {
                "_target_": "data.sources.mix.Mix",
                "sources": [
                    {"_target_": "data.sources.files.Files", "paths": ["text.jsonl"], "document_chars": 10**12}
                ],
            }
        },
        r"source.sources\.0\.document_chars",
    ),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("question", ["compare", "asymmetry"])
def test_data_of_a_stranger_has_values_that_could_be_typed(name: str, question: str, runs: Runs) -> None:
    change, key = VALUES[name]
    for run in ("solu", "gelu"):
        runs.write_config(run, {**runs.data(), **change})
    with pytest.raises(ValueError, match=rf"config\.yaml: data\.{key}=.*: expected a whole number from"):
        study(runs, question, "runs/solu,runs/gelu")


@pytest.mark.parametrize("value", [f"a{COMMAND}", "\x9b2J", {f"{COMMAND}a": 1}, {"a": ["\x07"]}, {"a": {"b": "\x08"}}])
def test_text_that_commands_the_terminal_is_not_taken_from_a_file(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="control characters") as refusal:
        check_plain({"key": value}, "file")
    assert str(refusal.value).isprintable()
    (tmp_path / "config.yaml").write_text('key: "\\e[2J"\n')
    with pytest.raises(ValueError, match="control characters"):
        read_yaml(tmp_path / "config.yaml")
    check_plain({"key": "lines\nand\ttabs, façade"}, "file")


def test_names_of_saved_activations_are_shown(runs: Runs) -> None:
    save_file({f"a{COMMAND}": torch.randn(8, 4), "b": torch.randn(8, 4)}, "saved.safetensors")
    shutil.copy("saved.safetensors", "other.safetensors")
    with pytest.raises(ValueError, match="control characters") as refusal:
        study(runs, "compare", "saved.safetensors,other.safetensors")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_message_does_not_command_the_terminal(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise kind(f"of a library: {COMMAND}\nand more")
    except kind as error:
        _, message = messages.report(error, [])
    shown = capsys.readouterr().err
    assert COMMAND not in shown + message and r"\x1b[2J" in shown and r"\x1b[2J" in message
    assert "and more" in shown.splitlines()[-1]
