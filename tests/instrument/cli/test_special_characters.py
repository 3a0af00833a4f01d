"""What is special to a terminal, HTML, LaTeX, Markdown or matplotlib is shown as it is, in every form of output."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dissimilarity.cli.command import main
from dissimilarity.figures.text import text_figure
from tests.helpers.report_folders import page_of

transformers = pytest.importorskip("transformers")

WORDS = ["R&D", "[/INST]", "[bold]x", ":cat:", "<b>no</b>", "&lt;", "$a_1$", "50%", "\\frac{1}", '"`|`"']
CONTROLS, SHOWN_CONTROLS = "\x1b[31m\x00", "\ufffd[31m\ufffd"
SITES = ["R&D_1", "[bold]x", ":cat:", "$a_1$", "<b>"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models, and a text of which each sequence has all words."""
    root = tmp_path_factory.mktemp("special")
    byte = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    byte.pre_tokenizer, byte.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for seed, name in enumerate(("[/x]", "R&D")):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(vocab_size=256, max_position_embeddings=128, **sizes)
        transformers.LlamaForCausalLM(config).save_pretrained(root / name.replace("/", ":"))
        byte.save(str(root / name.replace("/", ":") / "tokenizer.json"))
    words = [*WORDS, CONTROLS]
    turned = [" ".join(words[place:] + words[:place]) for place in range(len(words))]
    (root / "text.txt").write_text("".join(f"{line} " for line in turned))
    a, b = (str(root / name) for name in ("[:x]", "R&D"))
    length = str(len(turned[0].encode()) + 1)
    return ["compare", a, b, "--text", str(root / "text.txt"), "--length", length, "--influence", "--measures", "cka"]


def test_texts_are_shown_as_they_are(command: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr("dissimilarity.cli.output.CONTEXT", 1000)
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (line, *_) = re.findall("on text like: (.*)", capsys.readouterr().out)
    assert all(word in line for word in [*WORDS, SHOWN_CONTROLS]) and "\x1b" not in line and "\x00" not in line
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["text"][0] == line.strip()
    page = page_of(tmp_path / "out")
    texts = "".join(page.text.split())
    assert all(word in texts for word in [*WORDS, SHOWN_CONTROLS]) and "expected" not in page.text
    assert not {"b", "x"} & {tag for tag, _ in page.elements}


def test_figures_draw_a_dollar_as_a_dollar(tmp_path: Path) -> None:
    words = [f"{word} " for word in [*WORDS, CONTROLS]]
    row = {"token_influence": np.linspace(1, 2, len(words)).tolist(), "token_index": list(range(len(words)))}
    figure = text_figure(row, [list(range(len(words)))], None, title="$a of R&D at $x", texts=[words])
    panel = figure.axes[0]
    texts = [text for text in panel.texts if text.get_fontproperties().get_family() == ["monospace"]]
    assert "".join(text.get_text() for text in texts).split() == [*WORDS, SHOWN_CONTROLS]
    assert not any(text.get_parse_math() for text in (*texts, panel.title))
    figure.savefig(tmp_path / "text.svg")
    ElementTree.parse(tmp_path / "text.svg")


@pytest.mark.parametrize("form", ["table", "json", "csv", "latex"])
def test_names_of_sites_are_shown_as_they_are(form: str, tmp_path: Path, capsys: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        sites = {site: torch.randn(16, 4, generator=generator) for site in SITES}
        save_file(sites, tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    assert main(["compare", *files, "--measures", "cka", "--format", form, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    if form == "json":
        found = [row["site_a"] for row in json.loads(out)["rows"]]
    elif form == "csv":
        found = [row["site_a"] for row in csv.DictReader(io.StringIO(out))]
    elif form == "latex":
        escaped = {r"R\&D\_1": "R&D_1", r"\$a\_1\$": "$a_1$", r"\textless{}b\textgreater{}": "<b>"}
        lines = [line.split(" & ")[1] for line in out.splitlines() if line.startswith("cka &")]
        found = [escaped.get(name, name) for name in lines]
    else:
        found = [line.split(" │")[0].strip() for line in out.splitlines() if "±" in line and "│" in line]
    assert sorted(found) == sorted(SITES)
    page = page_of(tmp_path / "out")
    assert all(site in page.text for site in SITES) and "b" not in {tag for tag, _ in page.elements}
