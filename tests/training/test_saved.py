"""A net in one safetensors file as a reference, and the messages for broken files."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.build import build_net
from models.references import load
from models.saved import KEY, holds_net, write_net
from tests.helpers.families import FAMILIES, family_config

TOKENS = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))


def written(path: Path, family: str = "solu") -> Path:
    config = {key: value for key, value in family_config(family, 64, 1).items() if value != "???"}
    return write_net(build_net(config, 61, 3), {**config, "d_vocab": 61}, path)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back(tmp_path: Path, family: str) -> None:
    path = written(tmp_path / "net.safetensors", family)
    config = {key: value for key, value in family_config(family, 64, 1).items() if value != "???"}
    saved = load(str(path))
    assert torch.equal(saved.model(TOKENS), build_net(config, 61, 3)(TOKENS))
    assert saved.settings == {**config, "d_vocab": 61} and saved.sites[0] == "embed" and saved.tokenizer is None
    assert saved.provenance["pinned"] == str(path.resolve()) and len(saved.provenance["sha256"]) == 64


def test_saved_activations_are_not_a_net(tmp_path: Path) -> None:
    save_file({"blocks.0.resid_post": torch.ones(4, 2)}, tmp_path / "saved.safetensors")
    assert not holds_net(tmp_path / "saved.safetensors") and not holds_net(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="tensors without the settings of a net.*saved activations are compared by"):
        load(str(tmp_path / "saved.safetensors"))


@pytest.mark.parametrize("keep", [0, 5, 2000, -30])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path / "net.safetensors")
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    with pytest.raises(
        ValueError, match=r"net\.safetensors: it is truncated, damaged or not a safetensors file \(\d+ bytes"
    ):
        load(str(path))
    assert not holds_net(path)


def test_settings_that_would_call_something_are_rejected(tmp_path: Path) -> None:
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(tmp_path / "ran")]}}
    content = json.dumps({"format": 1, "settings": {**call, "d_vocab": 61}})
    save_file({"w": torch.ones(1)}, tmp_path / "net.safetensors", {KEY: content})
    with pytest.raises(ValueError, match=r"pathlib\.Path\.touch"):
        load(str(tmp_path / "net.safetensors"))
    assert not (tmp_path / "ran").exists()


def test_a_newer_format(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "net.safetensors", {KEY: json.dumps({"format": 9, "settings": {}})})
    with pytest.raises(ValueError, match=r"its format is 9 and this version reads format 1"):
        load(str(tmp_path / "net.safetensors"))
