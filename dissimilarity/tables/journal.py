"""The journal: an append-only file of rows, one JSON object a line. A kill costs at most the row being written.

A row is whole when its newline is there. Floats come back to the last bit; NaN and the infinities, for which JSON has
no numbers, are written as the strings "NaN", "Infinity" and "-Infinity".
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dissimilarity.tables import strict_json


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path in the same folder to write to; on success it replaces `path` in one step, on an error it is removed.

    Readers see the old file or the new one, never a part. One writer at a time: what a killed writer left behind, the
    next one overwrites.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of a folder survive a power cut, where the system lets folders be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Journal:
    """The journal in the file `path`, which need not exist yet. One process writes; any number may read meanwhile."""

    path: Path

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows at the end in one write, on disk on return.

        A torn row at the end of the file is cut off first. If the write fails half-way (disk full), the file is cut
        back to what it was. Raises TypeError, with nothing written, for a value that JSON has no form for.
        """
        data = "".join(strict_json.dumps(dict(row)) + "\n" for row in rows).encode()
        if not data:
            return
        created = not self.path.exists()
        with open(self.path, "ab+", buffering=0) as file:
            size = _whole_size(file)
            file.truncate(size)
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        if created:
            _sync_folder(self.path.parent)

    def read(self) -> list[dict[str, Any]]:
        """Return the whole rows, oldest first; none if there is no file. A torn last row is left out.

        Raises ValueError, naming file and line, if a line before the end is not a row.
        """
        return self.parse(self.whole_bytes())

    def truncate(self, step: int) -> None:
        """Drop every row whose `step` is above `step`, and a torn last row.

        The file is replaced in one step; kept lines stay as they were written.

        Raises ValueError, naming file and line, for a row without a step.
        """
        kept = []
        for number, (line, row) in enumerate(self._lines(self.whole_bytes(), 0), 1):
            if "step" not in row:
                raise ValueError(f"{self.path}, line {number}: a row without a step; found {sorted(row)}")
            if row["step"] <= step:
                kept.append(line + b"\n")
        data = b"".join(kept)
        if self.path.exists() and len(data) != self.path.stat().st_size:
            with replacing(self.path) as part:
                part.write_bytes(data)

    def whole_bytes(self) -> bytes:
        """Return the file's content up to the end of its last whole row; empty if there is no file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def parse(self, data: bytes, start: int = 0) -> list[dict[str, Any]]:
        """Return the rows from byte `start` on of what `whole_bytes` gave; a row must begin there. Raises as `read`."""
        return [row for _, row in self._lines(data, start)]

    def _lines(self, data: bytes, start: int) -> list[tuple[bytes, dict[str, Any]]]:
        lines = []
        for number, line in enumerate(data[start:].split(b"\n")[:-1], 1 + data[:start].count(b"\n")):
            try:
                row = strict_json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{self.path}, line {number}: not a row ({line[:60]!r}); restore the file, or delete that line"
                )
            lines.append((line, row))
        return lines


def _whole_size(file: Any) -> int:
    """Return where the last whole row of an open file ends, reading back from its end only as far as needed."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
