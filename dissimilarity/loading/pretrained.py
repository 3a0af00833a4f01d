"""Models in the form of Hugging Face transformers: a folder that `save_pretrained` wrote, or one of the hub.

`pip install -e ".[hf]"` brings what this needs. No code that comes with a model is ever run: remote code is refused,
weights are read as safetensors, or as pickles of tensors alone.
"""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading.config import check_config
from dissimilarity.loading.hub import download
from dissimilarity.loading.untrusted import read_json, read_tokenizer
from dissimilarity.tables.files import sha256_of

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "generation_config.json"]
"""What is downloaded of a model; a model without safetensors is asked for its pickles in a second request."""
GGUF = ".gguf"
TENSOR_BYTES = 256
"""What a layer takes in a file of weights at the very least."""


def folder_of(uri: str) -> tuple[Path, str | None]:
    """The folder of `hf:FOLDER` or `hf:ORG/MODEL` or `hf:ORG/MODEL@REVISION`, downloaded if need be, and its commit.

    Of `hf:FOLDER/FILE.gguf` it is the file.

    Returns:
        the folder, and the full hash of the revision on the hub, None for a folder of one's own.

    Raises:
        ValueError: no such folder, model or revision, or no way to the hub.
    """
    name = uri.removeprefix("hf:")
    if Path(name).is_dir() or (name.endswith(GGUF) and Path(name).is_file()):
        return Path(name), None
    model, _, revision = name.partition("@")
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or name.endswith(GGUF):
        kind = "file" if name.endswith(GGUF) else "folder"
        raise ValueError(
            f"reference {uri!r}: there is no {kind} {Path(name).absolute()}; give hf:FOLDER, as save_pretrained wrote "
            "it, hf:FOLDER/FILE.gguf, or hf:ORG/MODEL@REVISION of the Hugging Face hub"
        )
    _require_transformers(uri)
    instead = "give the folder of a copy, hf:FOLDER"
    folder, commit = download(model, revision or None, FILES, uri, instead)
    if not _weights(folder):
        folder, commit = download(model, commit, [*FILES, WEIGHTS[1], "*.bin.index.json"], uri, instead)
    return folder, commit


def load_folder(folder: Path, uri: str) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """The model in a folder, in float32, its tokenizer and the file of that, and the sha256 of its weights.

    A model with a head for the next token comes with it, any other one without a head.

    Raises:
        ValueError: no weights there, too few or broken ones, code in them, or an architecture that transformers does
            not know.
    """
    _require_transformers(uri)
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    weights = _weights(folder)
    if not weights or not (folder / "config.json").is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} is no model: expected config.json and model.safetensors, as "
            f"save_pretrained writes them, found {there}"
        )
    _check_folder(folder, weights, uri)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or [])
        kind: Any = AutoModelForCausalLM if causal else AutoModel
        model, report = kind.from_pretrained(
            folder, config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # whatever transformers, safetensors and pickle raise
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {text}") from error
    # transformers would fill these with random numbers; BERT's pooler comes after every site and is often left out
    absent = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if absent:
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} lacks weights that its config.json asks for: "
            f"{', '.join(absent[:4])}{f' and {len(absent) - 4} more' if len(absent) > 4 else ''}; copy it again"
        )
    file = folder.resolve() / "tokenizer.json"
    if not file.is_file():
        return model, None, None, sha256_of(*weights)
    return model, read_tokenizer(file), file, sha256_of(*weights)


def _check_folder(folder: Path, weights: list[Path], uri: str) -> None:
    """Refuse what would make transformers load something else than the weights beside the config."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"reference {uri!r}: {folder.absolute()} has an adapter_config.json, which names another model to load; "
            "merge the adapter into its base (merge_and_unload of peft) and save that"
        )
    try:
        check_config(read_json(folder / "config.json"), sum(path.stat().st_size for path in weights) // TENSOR_BYTES)
    except ValueError as error:
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {error}") from error


def _weights(folder: Path) -> list[Path]:
    """The files of weights: safetensors where there are some."""
    for pattern in WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _require_transformers(uri: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(f"reference {uri!r} needs Hugging Face transformers: pip install -e '.[hf]'") from error
