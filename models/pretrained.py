"""Models in the form of Hugging Face transformers: a folder that `save_pretrained` wrote, or one of the hub.

`pip install -e ".[hf]"` brings what this needs. No code that comes with a model is ever run: remote code is refused,
weights are read as safetensors, or as pickles of tensors alone.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "generation_config.json"]
"""What is downloaded of a model; a model without safetensors is asked for its pickles in a second request."""
SECONDS = 10
"""How long the hub may take to answer the first request."""
CHUNK = 2**24


def folder_of(uri: str) -> tuple[Path, str | None]:
    """The folder of `hf:FOLDER` or `hf:ORG/MODEL` or `hf:ORG/MODEL@REVISION`, downloaded if need be, and its commit.

    Returns:
        the folder, and the full hash of the revision on the hub, None for a folder of one's own.

    Raises:
        ValueError: no such folder, model or revision, or no way to the hub.
    """
    name = uri.removeprefix("hf:")
    if Path(name).is_dir():
        return Path(name), None
    model, _, revision = name.partition("@")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ValueError(
            f"reference {uri!r}: there is no folder {Path(name).absolute()}; give hf:FOLDER, as save_pretrained wrote "
            "it, or hf:ORG/MODEL@REVISION of the Hugging Face hub"
        )
    _require_transformers(uri)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    try:
        if offline:
            folder = Path(snapshot_download(model, revision=revision or None, local_files_only=True))
            return folder, folder.name
        commit = HfApi().model_info(model, revision=revision or None, timeout=SECONDS).sha
        folder = Path(snapshot_download(model, revision=commit, allow_patterns=FILES))
        if not _weights(folder):
            folder = Path(
                snapshot_download(model, revision=commit, allow_patterns=[*FILES, WEIGHTS[1], "*.bin.index.json"])
            )
        return folder, commit
    except RevisionNotFoundError as error:
        raise ValueError(f"reference {uri!r}: {model} has no revision {revision!r} on the hub") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"reference {uri!r}: {model} was not downloaded before, and there is no way to the hub"
            f"{' (HF_HUB_OFFLINE is set)' if offline else ''}; give the folder of a copy, hf:FOLDER"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(f"reference {uri!r}: the hub does not give {model}: {error}") from error
    except Exception as error:  # without a network: any of three libraries' errors
        raise ValueError(
            f"reference {uri!r}: no way to the hub for {model} ({type(error).__name__}); give the folder of a copy, "
            "hf:FOLDER"
        ) from error


def load_folder(folder: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, str]:
    """The model in a folder, in float32, with its tokenizer and the sha256 of its weights.

    A model with a head for the next token comes with it, any other one without a head.

    Raises:
        ValueError: no weights there, broken ones, code in them, or an architecture that transformers does not know.
    """
    _require_transformers(uri)
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    weights = _weights(folder)
    if not weights or not (folder / "config.json").is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} is no model: expected config.json and model.safetensors, as "
            f"save_pretrained writes them, found {there}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or [])
        kind: Any = AutoModelForCausalLM if causal else AutoModel
        model = kind.from_pretrained(folder, config=config, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # whatever transformers, safetensors and pickle raise
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {text}") from error
    tokenizer = folder / "tokenizer.json"
    read = Tokenizer.from_file(str(tokenizer)) if tokenizer.is_file() else None
    if read is not None:
        read.no_truncation()
        read.no_padding()
    return model, read, _sha256(weights)


def _weights(folder: Path) -> list[Path]:
    """The files of weights: safetensors where there are some."""
    for pattern in WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _require_transformers(uri: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(f"reference {uri!r} needs Hugging Face transformers: pip install -e '.[hf]'") from error
