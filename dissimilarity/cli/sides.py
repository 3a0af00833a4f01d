"""The two sides of a comparison: a model or saved activations, from what was typed."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dissimilarity.capture.offloaded import offloaded
from dissimilarity.cli.memory import Size, size_of
from dissimilarity.cli.messages import FORMS
from dissimilarity.comparison.saved import Source, is_saved
from dissimilarity.tables.files import sha256_of
from dissimilarity.tables.names import name_of

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


@dataclass(frozen=True)
class Place:
    """Where a side is.

    Attributes:
        argument: what was typed.
        path: the folder or file; None for a run of the application.
        commit: the revision on the hub; None for local files.
        is_saved: whether it holds activations and not a model.
    """

    argument: str
    path: Path | None
    commit: str | None = None
    is_saved: bool = False

    @property
    def uri(self) -> str:
        """The argument as the reference that it stands for."""
        return self.argument if self.argument.startswith("hf:") else f"hf:{self.argument}"

    @cached_property
    def size(self) -> Size | None:
        """The sizes of the model; None if no files tell them."""
        if self.is_saved or self.path is None:
            return None
        from dissimilarity.loading import adapters, pretrained  # optional packages

        is_adapter = self.path.is_dir() and adapters.is_adapter(self.path)
        return size_of(pretrained.base_folder(self.path, self.uri) if is_adapter else self.path)


def find_side(argument: str) -> Place:
    """Find the model, or the saved activations, that an argument names; a model of the hub is downloaded.

    Args:
        argument: what was typed.

    Raises:
        ValueError: it names nothing that can be read.
    """
    path = Path(argument)
    if is_saved(argument):
        if not path.exists():
            raise ValueError(f"{argument}: there is no {path.absolute()}")
        return Place(argument, path, is_saved=True)
    if argument.startswith("runs/") or argument.endswith(".ckpt"):
        return Place(argument, None)
    if not argument.startswith("hf:") and not path.exists():
        raise ValueError(f"{argument}: there is no {path.absolute()}; expected {FORMS}")
    try:  # optional packages
        from dissimilarity.loading import pretrained
    except ImportError as error:
        raise ValueError(f"{argument} needs Hugging Face transformers: pip install 'dissimilarity[hf]'") from error
    place = Place(argument, None)
    folder, commit = pretrained.folder_of(place.uri)
    return replace(place, path=folder, commit=commit)


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
        return _run(place.argument, device)
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
    return Side(name_of(place.uri), _ready(model, device), tokenizer, dtype, provenance)


def labels_of(sides: Sequence[Side]) -> tuple[str, str]:
    """Return two names that differ."""
    a, b = (side.label for side in sides)
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


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
    return Side(place.path.stem, place.argument, None, None, provenance)


def _run(argument: str, device: str) -> Side:
    """Load a run of the application, which is there in a clone: beside the package."""
    clone = Path(__file__).parents[2]
    if not (clone / "models" / "references.py").is_file():
        raise ValueError(
            f"{argument}: runs are read in a clone of the repository (pip install -e .); export this one there with "
            "python analyze.py study=export study.to=huggingface, and give hf:FOLDER"
        )
    if str(clone) not in sys.path:
        sys.path.append(str(clone))
    reference = importlib.import_module("models.references").load(argument)
    model = _ready(reference.model, device)
    return Side(name_of(argument), model, reference.tokenizer, torch.float32, reference.provenance)


def _ready(model: nn.Module, device: str) -> nn.Module:
    weights = offloaded(model)
    try:
        if weights is not None:
            weights.to(torch.device(device))
            return model.eval()
        return model.to(device).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {error}") from error
