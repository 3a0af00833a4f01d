"""Toy models of TransformerLens as references, `tl:NAME` and `tl:FOLDER`: what loads and what is rejected."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from models.references import load
from models.toys import NAMES
from tests.helpers.foreign import SHAPES, Hub, published_folder, random_net

TOKENS = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Return a tokenizer.json that truncates, as some published ones do."""
    bpe = Tokenizer(BPE(vocab={"a": 0, "b": 1}, merges=[]))
    bpe.enable_truncation(4)
    bpe.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("name", ["solu", "gelu", "attn_only"])
def test_a_folder_is_a_reference(tmp_path: Path, tokenizer: Path, name: str) -> None:
    net = random_net(SHAPES[name])
    folder = published_folder(tmp_path / name, net, SHAPES[name], tokenizer)
    toy = load(f"tl:{folder}")
    assert torch.equal(toy.model(TOKENS), net(TOKENS))
    assert not toy.model.training and not any(weight.requires_grad for weight in toy.model.parameters())
    assert toy.sites[:2] == ("embed", "blocks.0.resid_pre") and toy.sites[-1] == "ln_final"
    assert toy.settings is not None and toy.settings["family"] == name and toy.settings["d_vocab"] == 61
    assert toy.tokenizer is not None and len(toy.tokenizer.encode("a b a b a b").ids) > 4
    notes = toy.provenance
    assert notes["sha256"] == hashlib.sha256((folder / "model_final.pth").read_bytes()).hexdigest()
    assert notes["pinned"] == f"tl:{folder.resolve()}" and notes["tokenizer_path"] == str(folder / "tokenizer.json")
    assert load(notes["pinned"]).provenance["sha256"] == notes["sha256"]


def test_weights_may_be_safetensors_and_the_tokenizer_missing(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = published_folder(tmp_path / "solu", random_net(SHAPES["solu"]), SHAPES["solu"])
    save_file(torch.load(folder / "model_final.pth", weights_only=True), folder / "model.safetensors")
    before = load(f"tl:{folder}")
    for path in folder.glob("*.pth"):
        path.unlink()
    after = load(f"tl:{folder}")
    assert torch.equal(before.model(TOKENS), after.model(TOKENS)) and after.tokenizer is None


def test_a_name_is_downloaded_from_its_repository_and_pinned(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = random_net(SHAPES["gelu"])
    published_folder(tmp_path / "hub/NeelNanda/GELU_4L512W_C4_Code", net, SHAPES["gelu"])
    (tmp_path / "hub/some/tokenizer").mkdir(parents=True)
    tokenizer.rename(tmp_path / "hub/some/tokenizer/tokenizer.json")
    hub = Hub(tmp_path / "hub", monkeypatch)
    toy = load("tl:gelu-4l")
    assert torch.equal(toy.model(TOKENS), net(TOKENS))
    assert toy.provenance["pinned"] == f"tl:gelu-4l@{'c' * 40}" and toy.tokenizer is not None
    assert [model for model, *_ in hub.asked] == ["NeelNanda/GELU_4L512W_C4_Code", "some/tokenizer"]
    assert all(not pattern.startswith("checkpoints") for _, _, patterns in hub.asked for pattern in patterns)
    load(f"tl:gelu-4l@{'d' * 40}")
    assert hub.asked[2][1] == "d" * 40
    with pytest.raises(
        ValueError, match=r"cannot reach the hub for NeelNanda/SoLU_1L512W_C4_Code \(OSError\).*tl:FOLDER"
    ):
        load("tl:solu-1l")


def test_the_names_are_those_of_the_papers_models_and_their_relatives() -> None:
    assert {"solu-3l", "gelu-3l", "solu-4l", "gelu-4l", "attn-only-2l", "solu-12l"} <= NAMES.keys()
    assert NAMES["solu-12l"] == "NeelNanda/SoLU_12L1536W_C4_Code"
    assert NAMES["attn-only-1l"] == "NeelNanda/Attn_Only_1L512W_C4_Code"


class Bomb:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_rejected_and_not_run(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "solu", random_net(SHAPES["solu"]), SHAPES["solu"])
    for write in (torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content))):
        write({"embed.W_E": Bomb(tmp_path / "ran")}, folder / "model_final.pth")
        with pytest.raises(ValueError, match="it holds Python objects.*none of it was loaded; give a state dict"):
            load(f"tl:{folder}")
        assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the pickle of this test does nothing, so the test proves nothing"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: (folder / "model_final.pth").rename(folder / "model_2.pth"),
            "expected config.json and one state dict.*found checkpoi",
        ),
        (lambda folder: (folder / "config.json").unlink(), "expected config.json and one state dict.*model_final.pth"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot load"),
        (lambda folder: os.truncate(folder / "model_final.pth", 1000), "truncated or damaged .1000 bytes"),
        (lambda folder: torch.save([1], folder / "model_final.pth"), "expected a state dict of tensors"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot read the tokenizer"),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps({**json.loads((folder / "config.json").read_text()), "shortformer_pos": True})
            ),
            "shortformer_pos=True",
        ),
    ],
)
def test_a_broken_folder_is_rejected_with_the_reason(tmp_path: Path, break_it: Any, message: str) -> None:
    folder = published_folder(tmp_path / "solu", random_net(SHAPES["solu"]), SHAPES["solu"])
    break_it(folder)
    with pytest.raises(ValueError, match=rf"(?s)tl:{folder}.*{message}"):
        load(f"tl:{folder}")
