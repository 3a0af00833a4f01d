"""Load a base model with a peft adapter merged into it, from the folder of the adapter.

The config of an adapter names its base. A base in a folder of this machine, or in the cache of the hub, is loaded with
the checks of any model; nothing is downloaded because a file says so. Of an adapter's settings, those that would import
code, load further models, repeat layers or match names by expressions of unlimited cost are rejected.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dissimilarity.loading.untrusted import read_json, shown

if TYPE_CHECKING:
    from torch import nn

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KINDS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "LN_TUNING")
"""Kinds of adapters that change weights alone and can be merged into them."""
REJECTED = ("megatron_config", "layer_replication", "arrow_config", "loftq_config", "eva_config", "corda_config")
"""Settings that would import modules, load models or change the depth."""
LARGEST_RANK = 2**13
NAME = re.compile(r"[\w.|-]+")
NAMES = ("target_modules", "modules_to_save", "exclude_modules", "layers_pattern", "feedforward_modules")
PATTERNS = ("rank_pattern", "alpha_pattern")


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter without a model beside it."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def base_of(folder: Path, uri: str) -> str:
    """Return the base model of an adapter, after checking the adapter's settings.

    Args:
        folder: the folder of the adapter.
        uri: the reference as the user wrote it, for messages.

    Raises:
        ValueError: settings that are rejected, no base, or weights that are not in safetensors.
    """
    try:
        config = read_json(folder / CONFIG)
        _check(config)
        if not (folder / WEIGHTS).is_file():
            raise ValueError(f"its adapter has no {WEIGHTS}; save it again with peft")
    except ValueError as error:
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {error}") from error
    return config["base_model_name_or_path"]


def merged(base: "nn.Module", folder: Path, uri: str) -> "nn.Module":
    """Return a model with an adapter merged into its weights.

    Args:
        base: the model that the adapter was made for; its weights are changed.
        folder: the folder of the adapter, checked by ``base_of``.
        uri: the reference as the user wrote it, for messages.

    Raises:
        ValueError: peft is missing, or the adapter does not fit the model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"reference {uri!r} is an adapter and needs peft: pip install 'dissimilarity[hf]'") from error
    try:
        model: Any = PeftModel.from_pretrained(base, str(folder), local_files_only=True, use_safetensors=True)
        return model.merge_and_unload(safe_merge=True)
    except Exception as error:  # peft raises many kinds
        text = shorten(str(error), 300, placeholder=" ...")
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {text}") from error


def _check(config: Mapping[str, Any]) -> None:
    """Reject settings of an adapter that do more than change weights."""
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if kind not in KINDS:
        raise ValueError(f"its adapter has peft_type={shown(kind)}; expected one of {', '.join(KINDS)}")
    if not (isinstance(base, str) and base and len(base) < 4096):
        raise ValueError(f"its adapter has base_model_name_or_path={shown(base)}; expected the folder of its base")
    for key in REJECTED:
        if config.get(key):
            raise ValueError(f"its adapter has {key}={shown(config[key])}; merge it into its base with peft instead")
    for key in NAMES:
        names = config.get(key)
        listed = [names] if isinstance(names, str) else list(names or ())
        if wrong := [name for name in listed if not (isinstance(name, str) and NAME.fullmatch(name))]:
            raise ValueError(f"its adapter has {key}={shown(wrong[0])}; expected names of modules")
    ranks = [config.get("r")]
    for key in PATTERNS:
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(NAME.fullmatch(str(name)) for name in pattern):
            raise ValueError(f"its adapter has {key}={shown(pattern)}; expected names of modules")
        ranks += pattern.values() if key == "rank_pattern" else ()
    for rank in ranks:
        if rank is not None and not (type(rank) is int and 0 <= rank <= LARGEST_RANK):
            raise ValueError(f"its adapter has rank {shown(rank)}; expected a whole number up to {LARGEST_RANK}")
