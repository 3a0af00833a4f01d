"""The two sides of a comparison: a model or saved activations, from what was typed."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dissimilarity.capture.offloaded import moved
from dissimilarity.cli.places import CLONE, Place
from dissimilarity.comparison.saved import Source
from dissimilarity.tables.files import sha256_of

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""Precisions by their names in safetensors files."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: name in tables and figures.
        source: the model, in eval mode, or the path of saved activations.
        tokenizer: the tokenizer of the model; None if it has none.
        dtype: the coarsest precision among its weights in the file; None where the file does not tell.
        provenance: what was typed, path and hash.
    """

    label: str
    source: Source
    tokenizer: Any
    dtype: torch.dtype | None
    provenance: dict[str, Any]

    @property
    def model(self) -> nn.Module | None:
        """The model; None for saved activations."""
        return self.source if isinstance(self.source, nn.Module) else None


def open_side(place: Place, device: str, block_by_block: bool = False) -> Side:
    """Load a model, or take saved activations as they are.

    Args:
        place: where it is.
        device: where the model goes.
        block_by_block: whether weights stay in their files until a block that has them runs.

    Raises:
        ValueError: it cannot be read.
    """
    if place.is_saved:
        return _saved(place)
    if place.path is None:
        return _run(place, device)
    from dissimilarity.loading import gguf, pretrained

    if place.path.is_file():
        model, tokenizer, _, digest = gguf.load_file(place.path, place.uri)
        dtype = None
    else:
        model, tokenizer, _, digest = pretrained.load_folder(place.path, place.uri, block_by_block)
        dtype = stored_dtype(place.path)
    provenance = {
        "uri": place.uri,
        "path": str(place.path.resolve()),
        "sha256": digest,
        "commit": place.commit,
    }
    return Side(place.label, _ready(model, device), tokenizer, dtype, provenance)


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Return the coarsest precision of the weights in safetensors files of a folder; None if there are none."""
    precisions = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118  it is no mapping
        precisions |= {DTYPES[name] for name in names if name in DTYPES}
    return max(precisions, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def _saved(place: Place) -> Side:
    assert place.path is not None
    files = sorted(place.path.glob("*.npy")) if place.path.is_dir() else [place.path]
    provenance = {"uri": place.argument, "path": str(place.path), "sha256": sha256_of(*files)}
    return Side(place.label, place.argument, None, None, provenance)


def _run(place: Place, device: str) -> Side:
    """Load a run of the application, which is there in a clone: beside the package."""
    if str(CLONE) not in sys.path:
        sys.path.append(str(CLONE))
    reference = importlib.import_module("models.references").load(place.argument)
    model = _ready(reference.model, device)
    return Side(place.label, model, reference.tokenizer, torch.float32, reference.provenance)


def _ready(model: nn.Module, device: str) -> nn.Module:
    try:
        return moved(model, torch.device(device)).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {error}") from error
