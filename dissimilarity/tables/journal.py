"""The journal: an append-only file of rows, one JSON object per line. A kill costs at most the row being written.

A row is complete once its newline is written. Floats are read back exactly; NaN and the infinities, which JSON lacks,
are written as the strings "NaN", "Infinity" and "-Infinity". The last key of a line, `crc`, is a CRC-32 of all lines up
to and including this one, so reading detects rows that were changed, lost, duplicated or moved.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dissimilarity.tables import strict_json
from dissimilarity.tables.files import replacing, sync_folder

_KEY, _END = b', "crc": "', b'"}'
_SEAL = len(_KEY) + 8 + len(_END)


@dataclass(frozen=True)
class Mark:
    """A position in a journal: the size up to it, and the CRC-32 of the lines before it."""

    size: int = 0
    crc: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the arguments that make an equal mark."""
        return asdict(self)


@dataclass(frozen=True)
class Journal:
    """The journal in the file `path`, which need not exist yet. One process writes; others may read meanwhile."""

    path: Path
    without: str = "without its rows"
    """What a run continues with if its journal is deleted, for the messages."""

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows in one write, in a folder that is made if it is gone, and return once they are on disk.

        An incomplete row at the end of the file is removed first. If the write fails (disk full), the file is restored
        to its former size. Raises TypeError, with nothing written, for a value that JSON cannot represent.
        """
        texts = [_text(row) for row in rows]
        if not texts:
            return
        created = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+", buffering=0) as file:
            end = _end(file)
            file.truncate(end.size)
            data, written = _sealed(texts, end)[0], 0
            try:
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end.size)
                raise
        if created:
            sync_folder(self.path.parent)

    def read(self, after: Mark = Mark(), number: int = 0) -> list[dict[str, Any]]:
        """Return the complete rows, oldest first; none if there is no file.

        Args:
            after: an earlier result of `mark` to start from; nothing before it is read.
            number: number of rows before `after`, for the message.

        Raises:
            ValueError: a line is damaged, or the file ends before `after` or does not continue from it; names the file,
                the line, and what to do.
        """
        return [row for _, row in self._lines(after, number)]

    def mark(self) -> Mark:
        """Return the end of the last complete row."""
        try:
            with open(self.path, "rb") as file:
                return _end(file)
        except FileNotFoundError:
            return Mark()

    def return_to(self, mark: Mark) -> None:
        """Drop everything after a mark, once all rows before it are known to be intact.

        A deleted file is not restored: deleting it is how a user continues without its rows.

        Raises:
            ValueError: rows are lost or damaged.
        """
        if self.path.exists():
            self.verify(mark)
            self.cut(mark)

    def cut(self, mark: Mark) -> None:
        """Drop everything after a mark."""
        with open(self.path, "rb+") as file:
            file.truncate(mark.size)

    def verify(self, mark: Mark) -> None:
        """Check that all rows before a mark are intact.

        Raises:
            ValueError: rows are lost or damaged.
        """
        data = self.path.read_bytes() if self.path.exists() else b""
        if len(data) < mark.size:
            raise self._lost(len(data), mark)
        if self._checked(data[: mark.size], Mark(), 0)[1] != mark.crc:
            raise self._damaged(" is not the file that was written")

    def truncate(self, step: int) -> None:
        """Drop every row after a step, and an incomplete last row.

        The file is replaced atomically; the lines before the first dropped one do not change.

        Raises ValueError, naming file and line, for a row without a step.
        """
        remaining = []
        for number, (text, row) in enumerate(self._lines(Mark(), 0), 1):
            if "step" not in row:
                raise ValueError(f"{self.path}, line {number}: a row without a step; found {sorted(row)}")
            if row["step"] <= step:
                remaining.append(text)
        data, _ = _sealed(remaining, Mark())
        if self.path.exists() and data != self.path.read_bytes():
            with replacing(self.path) as part:
                part.write_bytes(data)

    def _lost(self, size: int, mark: Mark) -> ValueError:
        return self._damaged(f" has lost rows: it has {size} of the {mark.size} bytes that were written")

    def _damaged(self, problem: str) -> ValueError:
        """Return the error that says what is wrong with the file, and what to do."""
        return ValueError(f"{self.path}{problem}; put a copy of it back, or delete it to continue {self.without}")

    def _lines(self, after: Mark, number: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yield the text of each row, without its checksum, and the row."""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(after.size)
                data = file.read()
        except FileNotFoundError:
            size, data = 0, b""
        if size < after.size:
            raise self._lost(size, after)
        texts, _ = self._checked(data[: data.rfind(b"\n") + 1], after, number)
        for line, text in enumerate(texts, number + 1):
            try:
                row = strict_json.loads(text)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise self._damaged(f", line {line} is damaged: not a row ({text[:60]!r})")
            yield text, row

    def _checked(self, data: bytes, after: Mark, number: int) -> tuple[list[bytes], int]:
        """Return the texts of complete lines without their checksums, which are compared, and the checksum of all."""
        texts, crc, sealed = [], after.crc, after.size > 0
        for line in data.split(b"\n")[:-1]:
            written = _crc_of(line)
            text = line if written is None else line[:-_SEAL] + b"}"
            crc = zlib.crc32(text, crc)
            sealed = sealed or written is not None
            if sealed and written != crc:
                line_number = number + len(texts) + 1
                raise self._damaged(f", line {line_number} is damaged: its checksum is not that of the rows up to it")
            texts.append(text)
        return texts, crc


def as_lines(rows: Iterable[Mapping[str, Any]], after: Mark = Mark()) -> tuple[bytes, Mark]:
    """Return rows as lines that continue a journal from a mark, and the mark after them."""
    return _sealed([_text(row) for row in rows], after)


def _text(row: Mapping[str, Any]) -> bytes:
    return strict_json.dumps(dict(row)).encode()


def _sealed(texts: Iterable[bytes], after: Mark) -> tuple[bytes, Mark]:
    """Return JSON objects as lines with their checksums, and the mark after them."""
    lines, crc = [], after.crc
    for text in texts:
        crc = zlib.crc32(text, crc)
        lines.append(b"%s%s%08x%s\n" % (text[:-1], _KEY, crc, _END))
    data = b"".join(lines)
    return data, Mark(after.size + len(data), crc)


def _crc_of(line: bytes) -> int | None:
    """Return the checksum that a line ends with; None for a line without one."""
    end = line[-_SEAL:]
    if not (end.startswith(_KEY) and end.endswith(_END)):
        return None
    try:
        return int(end[len(_KEY) : -len(_END)], 16)
    except ValueError:
        return 0


def _end(file: BinaryIO) -> Mark:
    """Return the mark after the last complete row of an open file, reading back from its end as far as needed."""
    size, line = _last_line(file)
    crc = _crc_of(line)
    if crc is None:
        # empty, or written without checksums
        crc = 0
        file.seek(0)
        for line in file.read(size).split(b"\n")[:-1]:
            crc = zlib.crc32(line, crc)
    return Mark(size, crc)


def _last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Return where the last complete line of an open file ends, and the part of that line with its checksum."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            last = start + newline
            file.seek(max(0, last - _SEAL))
            return last + 1, file.read(min(last, _SEAL)).rpartition(b"\n")[2]
        end = start
    return 0, b""
