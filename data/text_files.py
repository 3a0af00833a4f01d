"""Text files that a user names: opened whatever their compression, and rejected if they are not text."""

import codecs
import gzip
import io
import json
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

GZIP = b"\x1f\x8b"
HEAD_BYTES = 4096
BYTE_ORDER_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Encodings by their marks; the mark of UTF-32 begins with that of UTF-16."""
JSON = (".jsonl", ".ndjson", ".json")


def suffix_of(file: Path) -> str:
    """Return the suffix of a file name in lower case, without that of its compression.

    Examples:
        >>> suffix_of(Path("notes.JSONL")), suffix_of(Path("notes.tsv.gz"))
        ('.jsonl', '.tsv')
    """
    return _plain_name(file).suffix.lower()


@contextmanager
def opened(file: Path) -> Iterator[TextIO]:
    """Open UTF-8 text, compressed with gzip or not, after the mark of the byte order if it begins with one.

    Line ends stay as they are, so that decoded tokens equal the file.

    Raises:
        ValueError: If it is not UTF-8 text, which may show only while it is read; says what to type.
    """
    try:
        with _binary(file) as stream:
            head = stream.read(HEAD_BYTES)
        if problem := _not_text(file, head):
            raise ValueError(problem)
        with _binary(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError:
        raise ValueError(_not_utf8(file)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"expected whole gzip data in {file}, found: {error}; copy the file again") from error


def json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield ("line 3", value) per line of a .jsonl or .ndjson file, or ("item 3", value) per item of a .json file.

    A .json file with one value per line is read as such, and one without a list as a single item.

    Raises:
        ValueError: If it is not JSON; names the file and the line.
    """
    with opened(file) as stream:
        lines = enumerate(stream, start=1)
        if suffix_of(file) == ".json":
            text = stream.read()
            try:
                value = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                if not str(error).startswith("Extra data"):
                    raise ValueError(f"expected JSON in {file}, found: {error}") from error
                lines = enumerate(io.StringIO(text), start=1)
            else:
                items = value if isinstance(value, list) else [value]
                yield from ((f"item {number}", item) for number, item in enumerate(items, start=1))
                return
        for number, line in lines:
            line = line.strip().removeprefix("\ufeff")  # files with a mark each, one after the other
            if not line:
                continue
            try:
                yield f"line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(
                    f"expected one JSON object per line in {file}, found in line {number}: {error}"
                ) from error


def _binary(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """Open the bytes of a file, decompressed if it begins as gzip does, whatever its name."""
    return gzip.open(file) if _is_compressed(file) else file.open("rb")


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(GZIP)) == GZIP


def _plain_name(file: Path) -> Path:
    """Return the name of a file without the suffix of its compression."""
    return file.with_suffix("") if file.suffix.lower() == ".gz" else file


def _not_text(file: Path, head: bytes) -> str | None:
    """Return what is wrong with a file that begins with `head` and holds zero bytes; None if it holds none."""
    if b"\0" not in head:
        return None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    for name, half in (("utf-16le", head[1::2]), ("utf-16be", head[::2])):
        if encoding is None and half.count(0) > 0.9 * len(half):  # Latin letters in two bytes each
            encoding = name
    if encoding is not None:
        return f"expected UTF-8 text in {file}, found {encoding.upper()}: {_conversion(file, encoding)}"
    return (
        f"expected text in {file}, found a binary file (a picture, a document, an archive): leave it out, or convert "
        "it to text"
    )


def _not_utf8(file: Path) -> str:
    """Return where a file is not UTF-8 and how to convert it."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with _binary(file) as stream:
        chunk = stream.read(1 << 20)
        try:
            while chunk:
                line += decoder.decode(chunk).count("\n")
                chunk = stream.read(1 << 20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            damaged = error.object[error.start : error.end]
            return (
                f"expected UTF-8 text in {file}, line {line}, found the bytes {damaged!r}: if it is text in another "
                f"encoding, {_conversion(file, 'windows-1252')}; if it is not text, leave it out"
            )
    raise AssertionError(f"{file} is UTF-8 now; it was not when it was read")


def _conversion(file: Path, encoding: str) -> str:
    """Return the command that writes a file as UTF-8 beside itself."""
    plain = _plain_name(file)
    target = shlex.quote(str(plain.with_name(f"{plain.stem}-utf8{plain.suffix}")))
    source = shlex.quote(str(file))
    convert = f"iconv -f {encoding} -t utf-8"
    command = f"zcat < {source} | {convert}" if _is_compressed(file) else f"{convert} {source}"
    return f"type {command} > {target} and name that file instead"
