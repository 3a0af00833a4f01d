"""The published toy models of TransformerLens, and folders in their form: config.json and a state dict."""

import difflib
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from dissimilarity.loading.hub import download
from dissimilarity.loading.untrusted import load_tokenizer, read_json
from dissimilarity.tables.files import sha256_of
from models.checkpoints import as_stored, read_tensors
from models.exchange.transformer_lens import from_transformer_lens

WIDTHS = {1: 512, 2: 512, 3: 512, 4: 512, 6: 768, 8: 1024, 10: 1280, 12: 1536}
NAMES = {
    f"{family}-{depth}l": f"NeelNanda/{name}_{depth}L{width}W_C4_Code"
    for family, name in {"solu": "SoLU", "gelu": "GELU", "attn-only": "Attn_Only"}.items()
    for depth, width in WIDTHS.items()
    if family == "solu" or depth <= 4
}
"""Repositories of the hub by their names in TransformerLens; all models were trained on C4 and code."""
FILES = ["config.json", "*final.pth", "tokenizer.json"]


def folder_of(uri: str) -> tuple[Path, str | None]:
    """Return the folder of `tl:FOLDER`, `tl:NAME` or `tl:NAME@REVISION`, downloaded if necessary, and its commit.

    Raises:
        ValueError: If there is no such folder or name, or the hub cannot be reached.
    """
    name = uri.removeprefix("tl:")
    if Path(name).is_dir():
        return Path(name), None
    name, _, revision = name.partition("@")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f" (did you mean tl:{near[0]}?)" if near else ""
        raise ValueError(
            f"reference {uri!r}: no such folder, and no such model of TransformerLens{hint}; "
            f"expected tl:FOLDER or tl: and one of {', '.join(NAMES)}"
        )
    return download(NAMES[name], revision or None, FILES, uri, _instead(name))


def load_folder(folder: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Return the model in a folder as our net, its tokenizer and tokenizer file, and the sha256 of its weights.

    The tokenizer is the tokenizer.json of the folder or, for a published model, the one that its config names.

    Raises:
        ValueError: If config or weights are missing, damaged, contain code, or describe another kind of model.
    """
    weights = _weights(folder)
    if weights is None or not (folder / "config.json").is_file():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} is not a model of TransformerLens: expected config.json and one "
            f"state dict, *final.pth, .pth or .safetensors, found {names}"
        )
    try:
        config = read_json(folder / "config.json")
        net = from_transformer_lens(_state(weights), config)
    except Exception as error:  # JSON or tensors of another form may raise anything
        raise ValueError(f"reference {uri!r}: cannot load {weights.absolute()}: {error}") from error
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() and uri.removeprefix("tl:").partition("@")[0] in NAMES:
        name = config["tokenizer_name"]
        tokenizer = download(name, None, ["tokenizer.json"], uri, _instead(uri))[0] / "tokenizer.json"
    read, path = _read_tokenizer(tokenizer, uri)
    return net, read, path, sha256_of(weights)


def seed_of(folder: Path) -> int | None:
    """Return the seed of a model's training from its config; None if it has none."""
    seed = read_json(folder / "config.json").get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else None


def _instead(name: str) -> str:
    return (
        f"give the folder of a copy, tl:FOLDER: the files config.json and model_final.pth of {NAMES.get(name, name)}, "
        "and the tokenizer.json of the tokenizer that its config names"
    )


def _weights(folder: Path) -> Path | None:
    """Return the file of weights, that of the end of the training if there are several."""
    for pattern in ("*.safetensors", "*final.pth", "*.pth"):
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(paths) == 1:
            return paths[0]
    return None


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # SafetensorError, and others
            raise ValueError(
                f"it is truncated or damaged ({path.stat().st_size} bytes: {error}); copy it again"
            ) from error
    with path.open("rb") as file:
        state: Any = read_tensors(file, path, "a state dict of tensors")
    if not (isinstance(state, dict) and state):
        raise ValueError("expected a state dict of tensors, found something else")
    return as_stored(state)


def _read_tokenizer(path: Path, uri: str) -> tuple[Tokenizer, Path] | tuple[None, None]:
    if not path.is_file():
        return None, None
    load = partial(Tokenizer.from_file, str(path))
    return load_tokenizer(load, f"reference {uri!r}: cannot read the tokenizer {path}"), path
