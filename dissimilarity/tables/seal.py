"""A checksum inside a file, in its metadata, so that other programs can read the file as usual.

A file with `UNSEALED` in its metadata is sealed by writing the CRC-32 of the whole file over the zeros. `check` then
detects any byte that changes. Files without a checksum, such as those of other programs, pass.
"""

import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dissimilarity.tables.files import replacing

KEY = "seal"
WORD, DIGITS = b"dissimilarity-crc32:", 8
UNSEALED = WORD.decode() + "0" * DIGITS


def seal(path: Path) -> None:
    """Write the checksum of a file that holds `UNSEALED` once into it."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        place = data.find(UNSEALED.encode()) + len(WORD)
        assert place >= len(WORD), path
        data[place : place + DIGITS] = _checksum(data, place)


def check(data: bytes | mmap.mmap, path: Path) -> None:
    """Compare the content of a file with its checksum, if it has one.

    Raises:
        ValueError: it is damaged; names `path`.
    """
    place = data.find(WORD) + len(WORD)
    if place >= len(WORD) and data[place : place + DIGITS] != _checksum(data, place):
        raise ValueError(f"{path.absolute()} is damaged: its content has changed since its checksum was taken")


def check_file(path: Path) -> None:
    """Do what `check` does without reading the file into memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check(data, path)


def write_table(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a sealed parquet file atomically."""
    sealed = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {}), KEY: UNSEALED})
    with replacing(path) as part:
        pq.write_table(sealed, part)
        seal(part)


def read_table(path: Path) -> pa.Table:
    """Return the table in a parquet file.

    Raises:
        ValueError: the file is missing or damaged; the message names it.
    """
    try:
        data = path.read_bytes()
        check(data, path)
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {path.absolute()}: {' '.join(str(error).split()).rstrip('.')}") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a sealed safetensors file atomically."""
    with replacing(path) as part:
        save_file(dict(tensors), part, {KEY: UNSEALED})
        seal(part)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors in a safetensors file.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        tensors = load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path.absolute()} is damaged: {error}") from error
    check_file(path)
    # In the file they begin anywhere, and a product of samples may round by where in memory they begin.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _checksum(data: bytes | mmap.mmap, place: int) -> bytes:
    """Return the checksum of data, in digits, with zeros in place of the checksum itself."""
    view, crc = memoryview(data), 0
    for piece in (view[:place], b"0" * DIGITS, view[place + DIGITS :]):
        crc = zlib.crc32(piece, crc)
    return b"%08x" % crc
