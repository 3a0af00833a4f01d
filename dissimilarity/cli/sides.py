"""The two sides of a comparison: a model or saved activations, from what was typed."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dissimilarity.comparison.saved import Source
from dissimilarity.tables.files import sha256_of

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""Precisions by their names in safetensors files."""
GGUF_GROWTH = 8
"""Size of weights in float32 over that of a GGUF file, whose weights have about four bits."""
FORMS = (
    "hf:FOLDER, hf:ORG/MODEL@REVISION, a .gguf file, saved activations (.safetensors, .npy, a folder of .npy files), "
    "or runs/NAME in a clone of the repository"
)


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


def open_side(argument: str, device: str) -> Side:
    """Load the model, or find the saved activations, that an argument names.

    Args:
        argument: what was typed.
        device: where the model goes.

    Raises:
        ValueError: it names nothing that can be read.
    """
    path = Path(argument)
    if argument.endswith((".npy", ".safetensors")) or (path.is_dir() and any(path.glob("*.npy"))):
        return _saved(argument, path)
    if argument.startswith("runs/") or argument.endswith(".ckpt"):
        return _run(argument, device)
    uri = argument if argument.startswith("hf:") else _as_uri(argument, path)
    try:  # optional packages
        from dissimilarity.loading import gguf, pretrained
    except ImportError as error:
        raise ValueError(f"{argument} needs Hugging Face transformers: pip install 'dissimilarity[hf]'") from error
    place, commit = pretrained.folder_of(uri)
    dtype = None if place.is_file() else stored_dtype(place)
    _check_memory(argument, place, dtype)
    load = gguf.load_file if place.is_file() else pretrained.load_folder
    model, tokenizer, _, digest = load(place, uri)
    provenance = {"uri": uri, "path": str(place.resolve()), "sha256": digest, "commit": commit}
    return Side(_label(uri), _ready(model, device), tokenizer, dtype, provenance)


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


def _check_memory(argument: str, place: Path, dtype: torch.dtype | None) -> None:
    """Raise ValueError if the weights in float32 do not fit into the memory that is free."""
    if place.is_file():
        need = GGUF_GROWTH * place.stat().st_size
    else:
        growth = 1 if dtype is None else torch.float32.itemsize / dtype.itemsize
        need = growth * sum(path.stat().st_size for path in place.glob("*.safetensors"))
    have = available_memory()
    if have is not None and need > have:
        raise ValueError(
            f"{argument} takes {need / 1e9:.1f} GB in float32, and {have / 1e9:.1f} GB are free; save the activations "
            "of each model by itself (dissimilarity.save_activations), and compare the files"
        )


def available_memory() -> int | None:
    """Return the bytes of memory that can be used without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return 1024 * int(sizes["MemAvailable"].split()[0]) if "MemAvailable" in sizes else None


def _as_uri(argument: str, path: Path) -> str:
    """Return the URI of a model that was typed as a path."""
    if path.exists():
        return f"hf:{argument}"
    raise ValueError(f"{argument}: there is no {path.absolute()}; expected {FORMS}")


def _saved(argument: str, path: Path) -> Side:
    if not path.exists():
        raise ValueError(f"{argument}: there is no {path.absolute()}")
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    return Side(path.stem, argument, None, None, {"uri": argument, "path": str(path), "sha256": sha256_of(*files)})


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
    return Side(_label(argument), model, reference.tokenizer, torch.float32, reference.provenance)


def _ready(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use --device {device}: {error}") from error


def _label(uri: str) -> str:
    """Return the last part of a URI."""
    return uri.removeprefix("hf:").rstrip("/").rpartition("/")[2] or uri
