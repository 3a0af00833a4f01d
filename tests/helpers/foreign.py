"""Models in other people's formats: nets with random weights, folders, and a folder that stands in for the hub."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models.exchange import to_transformer_lens
from models.exchange.shape import Shape, build

SMALL = Shape(d_model=32, n_layers=2, d_head=8, n_ctx=24, d_vocab=61, activation="gelu", d_mlp=96)
SHAPES = {
    "solu": replace(SMALL, activation="solu", mlp_norm=True),
    "solu_no_ln": replace(SMALL, activation="solu"),
    "gelu": SMALL,
    "gelu_new": replace(SMALL, activation="gelu_new"),
    "relu": replace(SMALL, activation="relu"),
    "attn_only": replace(SMALL, activation=None, d_mlp=None),
    "pythia": replace(SMALL, parallel=True, d_rotary=2),
    "rotary, one after the other": replace(SMALL, d_rotary=8),
    "a bias on the logits": replace(SMALL, unembed_bias=True),
}


def random_net(shape: Shape, seed: int = 1, scale: float = 0.3) -> nn.Module:
    """Return a net in which every weight, bias and scale is a different number, large enough to matter."""
    net, chance = build(shape), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            noise = torch.randn(weight.shape, generator=chance)
            weight.copy_(scale * noise + (1 if "ln" in name and name.endswith("weight") else 0))
    return net.eval()


def published_config(shape: Shape = SMALL, **more: Any) -> dict[str, Any]:
    """Return the keys of the config.json of a published toy model."""
    sizes = {
        key: getattr(shape, key) for key in ("n_layers", "d_model", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab")
    }
    training = {"lr_hidden": 2e-3, "seed": 9153, "dataset_name": "c4+code", "tokenizer_name": "some/tokenizer"}
    act_fn = f"{shape.activation}_ln" if shape.mlp_norm else shape.activation
    rest = {"act_fn": act_fn, "attn_only": shape.activation is None, "normalization": "LN", "shortformer_pos": False}
    return {**sizes, **training, **rest, "ln_eps": 1e-5, **more}


def published_folder(folder: Path, net: nn.Module, shape: Shape, tokenizer: Path | None = None, **more: Any) -> Path:
    """Write a folder like a published toy model: config.json, model_final.pth and earlier checkpoints."""
    (folder / "checkpoints").mkdir(parents=True)
    state, _ = to_transformer_lens(net)
    del state["unembed.b_U"]  # the published ones have none
    (folder / "config.json").write_text(json.dumps(published_config(shape, **more)))
    torch.save(state, folder / "model_final.pth")
    for earlier in ("model_init.pth", "checkpoints/model_000001.pth"):
        torch.save({key: torch.zeros_like(tensor) for key, tensor in state.items()}, folder / earlier)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer.read_text())
    return folder


class Hub:
    """A folder of repositories that stands in for the Hugging Face hub and records requests."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, []
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(model_info=self.model_info))
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)

    def model_info(self, model: str, revision: str | None, timeout: float) -> Any:
        if not (self.folder / model).is_dir():
            raise OSError(f"{model}: no route")
        return SimpleNamespace(sha=revision if revision and len(revision) == 40 else "c" * 40)

    def snapshot_download(self, model: str, revision: str, allow_patterns: list[str]) -> str:
        self.asked.append((model, revision, tuple(allow_patterns)))
        return str(self.folder / model)
