"""Checkpoint files: tensors and plain containers are read, and no object of a pickle is ever made."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dissimilarity.loading.untrusted import check_plain, shown
from models.build import check_net
from models.recipe_module import FORMAT, RecipeModule
from trusted import Place, class_named

NEEDED = ("state_dict", "hyper_parameters")
ZIP, PICKLE = b"PK", b"\x80"
TASK = Place("a task", "models", lambda candidate: issubclass(candidate, RecipeModule))
TIED = 4
"""How many weights may share what is stored of one: tied embeddings are two."""


def read_tensors(file: BinaryIO, path: Path, wanted: str, mmap: bool = False) -> Any:
    """What torch.save wrote, if it is tensors, numbers, text and plain containers.

    Args:
        file: opened; `path` is its name, for the message.
        wanted: what to give instead, for the message.
        mmap: leave the tensors in the file until they are used.

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
        return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
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
    """Hold a file to the sizes and checksums that torch.save put into it, which torch.load does not look at.

    torch.save never compresses: a file whose records are larger than itself was made to fill the memory.

    Raises:
        ValueError: its records are larger than the file.
        zipfile.BadZipFile: it is damaged; further exceptions of zipfile's, by where.
    """
    with zipfile.ZipFile(file) as archive:
        records, size = archive.infolist(), file.seek(0, 2)
        if any(record.file_size != record.compress_size for record in records) or (
            sum(record.file_size for record in records) > size
        ):
            raise ValueError("its parts are larger than the file")
        without = not any(record.CRC for record in records)  # torch.serialization.set_crc32_options(False)
        if not without and (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of its record {name} is another")


def read_checkpoint(file: BinaryIO, path: Path, mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint that train.py wrote.

    Raises:
        ValueError: as `read_tensors`, or it is something else.
    """
    checkpoint = read_tensors(file, path, "a checkpoint that train.py wrote", mmap)
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in NEEDED)):
        found = list(checkpoint)[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"cannot load {path.absolute()}: it is not a checkpoint of a training run: expected {' and '.join(NEEDED)},"
            f" found {found}; give a file that train.py wrote"
        )
    return checkpoint


def check_checkpoint(path: Path) -> None:
    """Make sure, before Lightning reads a checkpoint, that it is one of ours; no weights are read.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    with path.open("rb") as file:
        read_checkpoint(file, path, mmap=True)


def rebuild(checkpoint: dict[str, Any], path: Path) -> RecipeModule:
    """The module of a checkpoint; its net is built from its settings, which may name nn.Module classes only.

    Raises:
        ValueError: it is of a newer version, or of a family that cannot be built here.
    """
    written = checkpoint.get("format")
    if type(written) is not int or written != FORMAT:
        raise ValueError(
            f"cannot load {path.absolute()}: its format is {shown(written)} and this version reads format {FORMAT}; "
            "if a newer version wrote it, update this project"
        )
    settings = checkpoint["hyper_parameters"]
    net, state = settings.get("net"), checkpoint["state_dict"]
    family = net.get("family") if isinstance(net, dict) else None
    try:
        check_plain(settings, path.name)
        task = class_named(checkpoint.get("module"), TASK, path.name, "module")
        shapes = {name: tuple(weight.shape) for name, weight in as_stored(state).items()}
        check_net(net, settings.get("d_vocab"), shapes, path.name, task.prefix)  # pyright: ignore
        module = task(**settings)
        module.load_state_dict(state)
    except Exception as error:  # whatever a constructor of any family, of any version, may raise
        raise ValueError(
            f"cannot load {path.absolute()}: its model (family {shown(family)!r}) cannot be built here: {error}"
        ) from error
    return module


def as_stored(state: Any) -> dict[str, Tensor]:
    """Weights as they lie in the file: on the processor, and no tensor larger than what is stored for it.

    Raises:
        ValueError: there are others.
    """
    stored, needed = {}, 0
    for name, weight in state.items():
        if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.device.type != "cpu":
            raise ValueError(f"{shown(name)} is no tensor of numbers")
        storage = weight.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        needed += weight.numel() * weight.element_size()
    if needed > TIED * sum(stored.values()):
        raise ValueError(f"its weights are {needed} bytes, and stored are {sum(stored.values())}")
    return state
