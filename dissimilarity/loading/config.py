"""Check the folder and the config of a model of Hugging Face transformers before anything is built from them."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dissimilarity.loading.quantized import check_packages
from dissimilarity.loading.untrusted import read_json, shown

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
NEEDED_BY_GGUF = ("transformers", "gguf", "accelerate")
PART = re.compile(r"-(\d{5})-of-(?!00001)(\d{5})(?=\.gguf$)", re.IGNORECASE)
LAYERS = 512
"""Layers that settings may ask for though the file holds fewer tensors: some configs count what is not there."""
TENSOR_BYTES = 256
"""What a layer takes in a file of weights at the very least."""
ELSEWHERE = ("use_pretrained_backbone", "backbone")
"""Keys of a config by which transformers would load another model."""
SIZE = re.compile(r"(size|dim|embd|embedding|position|head|expert|channel|_ctx|_inner|d_(model|ff|kv))s?$|^n_|^num_")
LARGEST = 2**26
"""Above every size in a real config; that of Llama 4, the longest context, is a sixth of it."""


def check_model_folder(folder: Path, uri: str) -> list[Path]:
    """Reject a folder that is not a complete model, or that would lead transformers elsewhere.

    It only reads JSON, and needs neither torch nor transformers.

    Args:
        folder: The folder.
        uri: The reference as the user wrote it, for messages.

    Returns:
        Its files of weights.

    Raises:
        ValueError: If it has no config or weights, `check_folder` or `check_config` rejects it, or a package that its
            quantized weights need is not installed.

    Examples:
        >>> check_model_folder(Path("nowhere"), "hf:nowhere")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ValueError: reference 'hf:nowhere': cannot load .../nowhere: it is not a model: ...
    """
    weights = weights_in(folder)
    try:
        check_folder(folder)
        if not weights or not (folder / "config.json").is_file():
            files = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
            raise ValueError(
                "it is not a model: expected config.json and model.safetensors, as save_pretrained writes them, found "
                f"{files}"
            )
        if weights[0].suffix == ".safetensors":
            _check_parts(folder)
        config = read_json(folder / "config.json")
        check_config(config, sum(path.stat().st_size for path in weights) // TENSOR_BYTES)
    except ValueError as error:
        raise ValueError(f"reference {uri!r}: cannot load {folder.absolute()}: {error}") from error
    check_packages(config, uri)
    return weights


def check_gguf_file(path: Path, uri: str) -> None:
    """Reject a file that is no GGUF file, or a part of one, and say which packages reading it needs.

    Raises:
        ValueError: one of these; says what to do.
    """
    missing = [name for name in NEEDED_BY_GGUF if find_spec(name) is None]
    if missing:
        raise ValueError(f"reference {uri!r} needs {', '.join(missing)}: pip install 'dissimilarity[hf]'")
    if part := PART.search(path.name):
        raise ValueError(
            f"reference {uri!r}: {path.absolute()} is part {int(part[1])} of {int(part[2])}, but a model is one file; "
            f"merge the parts with llama.cpp: llama-gguf-split --merge {path.name[: part.start()]}-00001-of-{part[2]}"
            f"{path.suffix} MERGED.gguf"
        )


def weights_in(folder: Path) -> list[Path]:
    """Return the files of weights in a folder: safetensors if there are any, else pickles."""
    for pattern in WEIGHTS:
        if files := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return files
    return []


def _check_parts(folder: Path) -> None:
    """Check that all parts of a model that is divided over files are there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return
    absent = sorted({name for name in read_json(index)["weight_map"].values() if not (folder / name).is_file()})
    if absent:
        more = f" and {len(absent) - 2} more" if len(absent) > 2 else ""
        names = ", ".join(map(shown, absent[:2]))
        raise ValueError(f"it lacks {names}{more}, which {index.name} names; copy it again")


def check_folder(folder: Path) -> None:
    """Reject what would make transformers load something else than the weights in a folder, or read without end.

    Raises:
        ValueError: an adapter, a list of weights elsewhere, or JSON beyond the limits.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            "it has an adapter_config.json, which names another model to load; merge the adapter into its base with "
            f"peft: AutoPeftModelForCausalLM.from_pretrained({str(folder)!r}).merge_and_unload()"
            ".save_pretrained(FOLDER), and give hf:FOLDER"
        )
    for path in folder.glob("generation_config.json"):
        read_json(path)
    for path in folder.glob("*.index.json"):
        files = read_json(path).get("weight_map")
        names = files.values() if isinstance(files, dict) else [files]
        elsewhere = [name for name in names if not isinstance(name, str) or Path(name).name != name]
        if elsewhere:
            raise ValueError(f"{path.name} names {shown(elsewhere[0])}; expected files of weights beside it")


def check_config(config: dict[str, Any], layers: int) -> None:
    """Reject a config that asks transformers for more than the model that it describes.

    It takes no time: a hostile folder is rejected before transformers is imported.

    Args:
        config: as a config.json has it.
        layers: the most that it may ask for.

    Raises:
        ValueError: code or weights from elsewhere, more layers, sizes that no model has, or no name of an architecture.
    """
    kind = config.get("model_type")
    if kind is not None and not (isinstance(kind, str) and re.fullmatch(r"\w[\w.-]*", kind)):
        raise ValueError(f"its config says model_type={shown(kind)}; expected the name of an architecture")
    stack: list[Any] = [config]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        if not isinstance(node, dict):
            continue
        stack += node.values()
        for key, value in node.items():
            if (key in ELSEWHERE and value) or ("implementation" in str(key) and "/" in str(value)):
                raise ValueError(f"its config says {key}={shown(value)}, which would be fetched from elsewhere")
            if "layer" in str(key) and type(value) is int and value > max(layers, LAYERS):
                raise ValueError(f"its config says {key}={value}, but its weights are too few for that")
            if SIZE.search(str(key)) and type(value) is int and value > LARGEST:
                raise ValueError(f"its config says {key}={value}, and no model is that large")
