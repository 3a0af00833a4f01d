"""Checkpoint files: only tensors and plain containers are read, and no pickled object is ever created."""

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
"""How many weights may share one storage; tied embeddings are two."""


def read_tensors(file: BinaryIO, path: Path, content: str, mmap: bool = False) -> Any:
    """Return what torch.save wrote, if it consists of tensors, numbers, text and plain containers.

    Args:
        file: The opened file.
        path: Its path, for the message.
        content: The content that is expected, for the message.
        mmap: Whether to leave the tensors in the file, whose records have been checked, until they are used.

    Raises:
        ValueError: If it is truncated, not such a file, or holds objects, none of which was created.
    """
    start = file.read(2)
    size = file.seek(0, 2)
    file.seek(0)
    try:
        if start == ZIP and not mmap:
            check_records(file)
            file.seek(0)
        return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load raises many kinds of exceptions, depending on where the file is broken
        if isinstance(error, pickle.UnpicklingError) and (start[:1] == PICKLE or "GLOBAL" in str(error)):
            objects = re.findall(r"GLOBAL (\S+)", str(error))
            named = f" ({objects[0]})" if objects else ""
            why = (
                f"it holds Python objects{named} beside tensors, numbers and text, which can run any code when loaded,"
                f" so none of it was loaded; give {content}"
            )
        elif start == ZIP or size == 0:
            why = f"it is truncated or damaged ({size} bytes); copy it again or take another step"
        else:
            why = f"it is not a checkpoint ({size} bytes, not in torch.save's format); give {content}"
        raise ValueError(f"cannot load {path.absolute()}: {why}") from error


def check_records(file: BinaryIO) -> None:
    """Check a file against the sizes and checksums that torch.save wrote into it and torch.load ignores.

    torch.save never compresses, so a file with records larger than itself was made to fill the memory.

    Raises:
        ValueError: If its records are larger than the file.
        zipfile.BadZipFile: If it is damaged; other exceptions of zipfile, depending on where.
    """
    with zipfile.ZipFile(file) as archive:
        records, size = archive.infolist(), file.seek(0, 2)
        if any(record.file_size != record.compress_size for record in records) or (
            sum(record.file_size for record in records) > size
        ):
            raise ValueError("its parts are larger than the file")
        without = not any(record.CRC for record in records)  # torch.serialization.set_crc32_options(False)
        if not without and (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of its record {name} does not match")


def read_checkpoint(file: BinaryIO, path: Path, mmap: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint that train.py wrote.

    Raises:
        ValueError: As `read_tensors`, or if it is something else.
    """
    checkpoint = read_tensors(file, path, "a checkpoint that train.py wrote", mmap)
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in NEEDED)):
        content = list(checkpoint)[:6] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"cannot load {path.absolute()}: it is not a checkpoint of a training run: expected {' and '.join(NEEDED)},"
            f" found {content}; give a file that train.py wrote"
        )
    return checkpoint


def check_checkpoint(path: Path) -> None:
    """Check, before Lightning reads a checkpoint of `checkpoint_of`, that train.py wrote it; no weights are read.

    Raises:
        ValueError: As `read_checkpoint`.
    """
    with path.open("rb") as file:
        read_checkpoint(file, path, mmap=True)


def rebuild(checkpoint: dict[str, Any], path: Path) -> RecipeModule:
    """Build the module of a checkpoint; the settings of its net may name nn.Module classes only.

    Raises:
        ValueError: If it has another format, or a family that cannot be built here.
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
    except Exception as error:  # the constructor of any family or version may raise anything
        raise ValueError(
            f"cannot load {path.absolute()}: its model (family {shown(family)!r}) cannot be built here: {error}"
        ) from error
    return module


def as_stored(state: Any) -> dict[str, Tensor]:
    """Return weights that are as in the file: on the processor, and no tensor larger than its storage.

    Raises:
        ValueError: If a weight is not.
    """
    stored, needed = {}, 0
    for name, weight in state.items():
        if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.device.type != "cpu":
            raise ValueError(f"{shown(name)} is not a dense tensor of numbers")
        storage = weight.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        needed += weight.numel() * weight.element_size()
    if needed > TIED * sum(stored.values()):
        raise ValueError(f"its weights take {needed} bytes, and the file stores {sum(stored.values())}")
    return state
