"""A net of this project as a folder that other libraries, or this one, can read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from models.exchange.huggingface import missing_class, to_huggingface
from models.exchange.transformer_lens import to_transformer_lens
from models.saved import write_net
from models.transformer import Transformer

WEIGHTS = "model.safetensors"


def write_huggingface(
    net: nn.Module, settings: Mapping[str, Any], tokenizer: Tokenizer | None, boundary: int | None, folder: Path
) -> str:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` load or, without a class in transformers, `hf:FOLDER`.

    Args:
        net: The net.
        settings: Its settings, in the form of a YAML of conf/model, with `d_vocab`.
        tokenizer: Its tokenizer, if it has one.
        boundary: The token that begins and ends documents.
        folder: An existing folder.

    Returns:
        What reads it, in words.
    """
    why = missing_class(net) if isinstance(net, Transformer) else type(net).__name__
    if why is None:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        model = to_huggingface(net)
        for config in (model.config, model.generation_config):
            config.bos_token_id = config.eos_token_id = boundary
        model.save_pretrained(folder)
        reader = f"AutoModelForCausalLM ({type(model).__name__})"
    else:
        write_net(net, settings, folder / WEIGHTS)
        config = {
            "model_type": "dissimilarity",
            "architectures": [str(settings["_target_"])],
            "settings": dict(settings),
        }
        _write_json(folder / "config.json", config)
        reader = f"hf:FOLDER here: transformers has no class for {why}"
    if tokenizer is not None:
        _write_tokenizer(tokenizer, boundary, int(settings.get("n_ctx") or 2**30), folder)
    return reader


def write_transformer_lens(net: nn.Module, tokenizer: Tokenizer | None, folder: Path) -> str:
    """Write the files of a published toy model: config.json, model_final.pth and the tokenizer.

    Returns:
        What reads it, in words.

    Raises:
        ValueError: If TransformerLens has no such model.
    """
    state, config = to_transformer_lens(net)
    torch.save(state, folder / "model_final.pth")
    _write_json(folder / "config.json", config)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    return "HookedTransformer, tl:FOLDER"


def write_safetensors(net: nn.Module, settings: Mapping[str, Any], tokenizer: Tokenizer | None, folder: Path) -> str:
    """Write one file with weights and settings, named like the folder, and the tokenizer beside it.

    Returns:
        What reads it, in words.
    """
    write_net(net, settings, folder / f"{folder.name}.safetensors")
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    return "its path here"


def _write_tokenizer(tokenizer: Tokenizer, boundary: int | None, longest: int, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    token = None if boundary is None else tokenizer.id_to_token(boundary)
    special = {} if token is None else {"bos_token": token, "eos_token": token}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **special).save_pretrained(folder)
    # The copy of transformers has another hash, and references are identified by the hash.
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
