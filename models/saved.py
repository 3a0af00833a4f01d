"""A net in one safetensors file, with its weights and, in the metadata, its settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from dissimilarity.loading.untrusted import parse_json, shown
from dissimilarity.tables import seal
from dissimilarity.tables.files import replacing
from models.build import build_net, check_net

KEY = "dissimilarity"
FORMAT = 1


def write_net(net: nn.Module, settings: Mapping[str, Any], path: Path) -> Path:
    """Write a net of any family in one step: the file is complete or absent.

    Args:
        net: The net.
        settings: Its settings, in the form of a YAML of conf/model, with `d_vocab`.
        path: The file.
    """
    # transformers requires `format`
    metadata = {
        "format": "pt",
        KEY: json.dumps({"format": FORMAT, "settings": dict(settings)}),
        seal.KEY: seal.UNSEALED,
    }
    with replacing(path) as part:
        save_model(net, str(part), metadata)
        seal.seal(part)
    return path


def holds_net(path: Path) -> bool:
    """Return whether `write_net` wrote a file; saved activations are safetensors files too."""
    try:
        return path.is_file() and KEY in _metadata(path)
    except (OSError, SafetensorError):
        return False


def read_net(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the net of a file, and its settings.

    Raises:
        ValueError: If the file is truncated, has no settings, or its net cannot be built here.
    """
    try:
        metadata = _metadata(path)
    except (OSError, SafetensorError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"cannot load {path.absolute()}: it is truncated, damaged or not a safetensors file ({size} bytes: "
            f"{error}); copy it again"
        ) from error
    if KEY not in metadata:
        raise ValueError(
            f"cannot load {path.absolute()}: it holds tensors without the settings of a net; expected a file that "
            "python analyze.py study=export study.to=safetensors wrote, hf:FOLDER for a folder of save_pretrained, or "
            "tl:FOLDER; saved activations are compared by study=compare"
        )
    try:
        seal.check_file(path)
    except ValueError as error:
        raise ValueError(f"cannot load {error}; copy it again") from error
    try:
        content = parse_json(metadata[KEY], path.name)
        written, settings = content.get("format"), content.get("settings")
        if type(written) is not int or written != FORMAT:
            raise ValueError(
                f"its format is {shown(written)} and this version reads format {FORMAT}; update this project"
            )
        if type(settings) is not dict:
            raise ValueError(f"expected settings, found {shown(settings)}")
        config = {key: value for key, value in settings.items() if key != "d_vocab"}
        check_net(config, settings.get("d_vocab"), _shapes(path), path.name)
        net = build_net(config, settings["d_vocab"], 0)
        load_model(net, str(path))
    except Exception as error:  # the constructor of any family or version may raise anything
        raise ValueError(f"cannot load {path.absolute()}: its net cannot be built here: {error}") from error
    return net, settings


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(str(path), "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}
