"""A checksum inside a file, which other programs read as before: a word of its metadata that is filled in at the end.

A file that holds `UNSEALED` in its metadata is sealed by writing the CRC-32 of the whole file over the zeros. A byte
that has changed anywhere is then found by `check`. Files without it, of earlier versions or others' making, pass.
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
    """Write the checksum of a file into it; it holds `UNSEALED` once."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        place = data.find(UNSEALED.encode()) + len(WORD)
        assert place >= len(WORD), path
        data[place : place + DIGITS] = _checksum(data, place)


def check(data: bytes | mmap.mmap, path: Path) -> None:
    """Compare a file's content with the checksum in it, where it has one.

    Raises:
        ValueError: it is damaged; names `path`.
    """
    place = data.find(WORD) + len(WORD)
    if place >= len(WORD) and data[place : place + DIGITS] != _checksum(data, place):
        raise ValueError(f"{path.absolute()} is damaged: its content has changed since its checksum was taken")


def check_file(path: Path) -> None:
    """Compare a file with the checksum in it, where it has one, without reading it into memory. Raises as `check`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check(data, path)


def write_table(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Put a sealed parquet file in place in one step."""
    sealed = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {}), KEY: UNSEALED})
    with replacing(path) as part:
        pq.write_table(sealed, part)
        seal(part)


def read_table(path: Path) -> pa.Table:
    """Return what a parquet file holds.

    Raises:
        ValueError: there is none, or it is damaged; names the file.
    """
    try:
        data = path.read_bytes()
        check(data, path)
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {path.absolute()}: {' '.join(str(error).split())}") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put a sealed safetensors file in place in one step."""
    with replacing(path) as part:
        save_file(dict(tensors), part, {KEY: UNSEALED})
        seal(part)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return what a safetensors file holds.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        tensors = load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path.absolute()} is damaged: {error}") from error
    check_file(path)
    return tensors


def _checksum(data: bytes | mmap.mmap, place: int) -> bytes:
    """Return the checksum of data, in digits, with zeros in place of the checksum itself."""
    view, crc = memoryview(data), 0
    for piece in (view[:place], b"0" * DIGITS, view[place + DIGITS :]):
        crc = zlib.crc32(piece, crc)
    return b"%08x" % crc
