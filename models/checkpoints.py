"""Checkpoint files: tensors and plain containers are read, and no object of a pickle is ever made."""

import pickle
import pkgutil
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from models.recipe_module import FORMAT, RecipeModule

NEEDED = ("state_dict", "hyper_parameters")
ZIP, PICKLE = b"PK", b"\x80"
FIRST = "models.language_model.LanguageModel"
"""What reads the checkpoints that do not say what reads them: there was one task."""


def read_tensors(file: BinaryIO, path: Path, wanted: str) -> Any:
    """What torch.save wrote, if it is tensors, numbers, text and plain containers.

    Args:
        file: opened; `path` is its name, for the message.
        wanted: what to give instead, for the message.

    Raises:
        ValueError: it is truncated, no such file, or holds objects, none of which was made.
    """
    start = file.read(2)
    size = file.seek(0, 2)
    file.seek(0)
    try:
        if start == ZIP:
            check_records(file)
            file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises some ten kinds, by where the file is broken
        if isinstance(error, pickle.UnpicklingError) and (start[:1] == PICKLE or "GLOBAL" in str(error)):
            objects = re.findall(r"GLOBAL (\S+)", str(error))
            named = f" ({objects[0]})" if objects else ""
            why = (
                f"it holds Python objects{named} beside tensors, numbers and text, which can run any code when loaded,"
                f" so none of it was loaded; give {wanted}"
            )
        elif start == ZIP or size == 0:
            why = f"it is truncated or damaged ({size} bytes); copy it again or take another step"
        else:
            why = f"it is not a checkpoint ({size} bytes, not in torch.save's format); give {wanted}"
        raise ValueError(f"cannot load {path.absolute()}: {why}") from error


def check_records(file: BinaryIO) -> None:
    """Compare what torch.save wrote with the checksums that it put in, which torch.load does not look at.

    Raises:
        zipfile.BadZipFile: it is damaged; further exceptions of zipfile's, by where.
    """
    with zipfile.ZipFile(file) as archive:
        without = not any(record.CRC for record in archive.infolist())  # torch.serialization.set_crc32_options(False)
        if not without and (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of its record {name} is another")


def read_checkpoint(file: BinaryIO, path: Path) -> dict[str, Any]:
    """The content of a checkpoint that train.py wrote.

    Raises:
        ValueError: as `read_tensors`, or it is something else.
    """
    checkpoint = read_tensors(file, path, "a checkpoint that train.py wrote")
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in NEEDED)):
        found = list(checkpoint)[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"cannot load {path.absolute()}: it is not a checkpoint of a training run: expected {' and '.join(NEEDED)},"
            f" found {found}; give a file that train.py wrote"
        )
    return checkpoint


def rebuild(checkpoint: dict[str, Any], path: Path) -> RecipeModule:
    """The module of a checkpoint; its net is built from its settings, which may name nn.Module classes only.

    Raises:
        ValueError: it is of a newer version, or of a family that cannot be built here.
    """
    written = checkpoint.get("format", 1)
    if written > FORMAT:
        raise ValueError(
            f"cannot load {path.absolute()}: a newer version wrote it (format {written}, this version reads up to"
            f" {FORMAT}); update this project"
        )
    settings = checkpoint["hyper_parameters"]
    family = settings["net"].get("family") if isinstance(settings.get("net"), dict) else None
    try:
        module = _class_of(checkpoint)(**settings)
        module.load_state_dict(checkpoint["state_dict"])
    except Exception as error:  # whatever a constructor of any family, of any version, may raise
        raise ValueError(
            f"cannot load {path.absolute()}: its model (family {family!r}) cannot be built here: {error}; a family of"
            " your own must be importable as it was in training, and other code than wrote it may not read it"
        ) from error
    return module


def _class_of(checkpoint: dict[str, Any]) -> type[RecipeModule]:
    """The class that a checkpoint is read by, of which nothing is called unless it is a RecipeModule."""
    name = checkpoint.get("module", FIRST)
    found = pkgutil.resolve_name(name)
    if not (isinstance(found, type) and issubclass(found, RecipeModule)):
        raise ValueError(f"{name} is no task of this project")
    return found
