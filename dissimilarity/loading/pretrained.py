"""Load models in the format of Hugging Face transformers: a folder that `save_pretrained` wrote, or one on the hub.

`pip install -e ".[hf]"` installs what this needs. No code that comes with a model is ever run: remote code is rejected,
and weights are read as safetensors or as pickles that hold tensors alone.
"""

import hashlib
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from dissimilarity.loading import adapters
from dissimilarity.loading.config import check_model_folder
from dissimilarity.loading.from_files import from_files
from dissimilarity.loading.lora import check_plain
from dissimilarity.loading.places import base_folder, require_transformers
from dissimilarity.loading.quantized import with_quotes
from dissimilarity.loading.untrusted import read_tokenizer
from dissimilarity.loading.weights import WRAPPED, check_loaded
from dissimilarity.tables.files import sha256_of


def load_folder(
    folder: Path, uri: str, block_by_block: bool = False
) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Return the float32 model in a folder, its tokenizer, the file of the tokenizer, and the sha256 of its weights.

    A model for next-token prediction is loaded with its head, any other without. The folder of a peft adapter is its
    base with the adapter merged.

    Args:
        folder: a folder that `save_pretrained` wrote, of a model or of an adapter.
        uri: the reference as the user wrote it, for messages.
        block_by_block: whether weights stay in their files until a block that has them runs.

    Raises:
        ValueError: weights are missing, broken or contain code, or transformers does not support the architecture.
    """
    if adapters.is_adapter(folder):
        return _with_adapter(folder, uri, block_by_block)
    return _load(folder, uri, block_by_block)


def _load(
    folder: Path, uri: str, block_by_block: bool, adapter: Path | None = None
) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Load a folder that is no adapter; an adapter is merged block by block."""
    weights = check_model_folder(folder, uri)
    require_transformers(uri)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or [])
        encoder = any(name.endswith("EncoderModel") for name in config.architectures or [])
        kind: Any = AutoModelForCausalLM if causal else body_class(config, encoder)
        load = partial(
            kind.from_pretrained,
            folder,
            config=config,
            trust_remote_code=False,
            dtype=torch.float32,
            key_mapping={WRAPPED: ""},
            ignore_mismatched_sizes=True,  # reported, and rejected below
            output_loading_info=True,
        )
        model, report = from_files(kind, config, weights, load, adapter) if block_by_block else load()
    except Exception as error:  # transformers, safetensors and pickle raise many kinds
        text = with_quotes(shorten(str(error), 300, placeholder=" ..."))
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {text}") from error
    check_loaded(report, model, f"reference {uri!r}: {folder.absolute()}", of_a_body=not causal)
    file = folder.resolve() / "tokenizer.json"
    if not file.is_file():
        return model, None, None, sha256_of(*weights)
    return model, read_tokenizer(file), file, sha256_of(*weights)


def _with_adapter(folder: Path, uri: str, block_by_block: bool) -> tuple[nn.Module, Tokenizer | None, Path | None, str]:
    """Return a base model with an adapter merged; its tokenizer is the adapter's, if that has one."""
    base = base_folder(folder, uri)
    if block_by_block:
        check_plain(folder, uri)
        model, tokenizer, file, digest = _load(base, uri, True, folder)
    else:
        model, tokenizer, file, digest = _load(base, uri, False)
        model = adapters.merged(model, folder, uri)
    own = folder.resolve() / "tokenizer.json"
    if own.is_file():
        tokenizer, file = read_tokenizer(own), own
    both = hashlib.sha256((digest + sha256_of(folder / adapters.CONFIG, folder / adapters.WEIGHTS)).encode())
    return model, tokenizer, file, both.hexdigest()


def body_class(config: Any, is_encoder: bool) -> Any:
    """Return the class that loads or builds a model without a head: of T5's family, the encoder if that is meant."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    return AutoModelForTextEncoding if is_encoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
