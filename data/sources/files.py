"""Text files of any size."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.text_files import JSON, json_rows, opened, suffix_of
from dissimilarity.tables.files import replacing, sha256_of

# Smaller files are hashed at every start; hashes of larger ones are cached by path, size and modification time.
REMEMBERED_BYTES = 64 << 20
TABLES = (".csv", ".tsv", ".parquet", ".arrow")


class Files:
    """Text files (UTF-8) and JSON files, compressed with gzip or not.

    A `.jsonl` or `.ndjson` file holds one document per line under the key `field`, a `.json` file a list of them (it is
    read whole) or one per line. Any other file is text. If it is longer than `document_chars` characters, it is divided
    into documents of about that length, which end at blank lines if there are any. Only the current document is held in
    memory.

    Args:
        paths: Files, folders (all files below except hidden ones) or glob patterns.
        field: Key of the text in a JSON file.
        document_chars: Length in characters after which a document ends at the next blank line, and twice which it
            ends in any case.
        cache_dir: Folder for the hashes of large files; None = hash them at every start.

    Raises:
        ValueError: If there is no path, a path does not exist, or a file is a table; while reading, if a file is not
            what its name says.
    """

    def __init__(
        self,
        paths: Sequence[str],
        field: str = "text",
        document_chars: int = 8192,
        cache_dir: str | None = None,
    ) -> None:
        if isinstance(paths, str) or not paths:
            raise ValueError(f"expected a list of files, found {paths!r}: type data.source.paths=[my/text.txt]")
        if document_chars < 1:
            raise ValueError(f"expected data.source.document_chars >= 1, found {document_chars}")
        self.files = [file for path in paths for file in _expand(path)]
        for file in self.files:
            if suffix_of(file) in TABLES:
                raise ValueError(
                    f"expected text, found the table {file}: leave it out of data.source.paths, or put it into a "
                    "folder of its own and type data=hub data.source.name=./FOLDER data.source.text=COLUMN"
                )
        self.field = field
        self.document_chars = document_chars
        self.cache_dir = cache_dir

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield ("path#part", text) file by file, in the order of `paths`."""
        for file in self.files:
            read = self._json if suffix_of(file) in JSON else self._text
            for part, text in enumerate(read(file)):
                yield f"{file}#{part}", text

    def _text(self, file: Path) -> Iterator[str]:
        with opened(file) as stream:
            lines, length = [], 0
            # A limit on readline bounds memory for a file without line ends.
            while line := stream.readline(self.document_chars):
                lines.append(line)
                length += len(line)
                at_blank_line = length >= self.document_chars and not line.strip()
                if at_blank_line or length >= 2 * self.document_chars:
                    yield "".join(lines)
                    lines, length = [], 0
            if lines:
                yield "".join(lines)

    def _json(self, file: Path) -> Iterator[str]:
        for place, row in json_rows(file):
            text = row.get(self.field) if isinstance(row, dict) else None
            if isinstance(text, str):
                yield text
            elif isinstance(row, dict) and self.field in row:
                raise ValueError(
                    f"expected text under the key {self.field!r}, found {json.dumps(text)[:80]} in {file}, {place}: "
                    "fill it in or delete it"
                )
            else:
                content = f"keys {sorted(row)}" if isinstance(row, dict) else type(row).__name__
                raise ValueError(
                    f"expected text under the key {self.field!r}, found {content} in {file}, {place}: "
                    "type data.source.field=KEY"
                )

    def fingerprint(self) -> str:
        """Return a sha256 of the contents in order and of how they are divided, but not of names and places."""
        digest = hashlib.sha256(json.dumps([self.field, self.document_chars]).encode())
        for file in self.files:
            digest.update(b"json" if suffix_of(file) in JSON else b"plain")
            digest.update(self._digest(file).encode())
        return f"files:{digest.hexdigest()}"

    def _digest(self, file: Path) -> str:
        status = file.stat()
        if self.cache_dir is None or status.st_size < REMEMBERED_BYTES:
            return sha256_of(file)
        identity = f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
        note = Path(self.cache_dir, "digests", hashlib.sha256(identity.encode()).hexdigest())
        if note.exists():
            return note.read_text()
        digest = sha256_of(file)
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as part:
            part.write_text(digest)
        return digest


def _expand(path: str) -> list[Path]:
    matches = (
        [Path(path)] if os.path.exists(path) else [Path(match) for match in sorted(glob.glob(path, recursive=True))]
    )
    files = []
    for match in matches:
        inside = sorted(file for file in match.rglob("*") if not _is_hidden(file, match)) if match.is_dir() else [match]
        files.extend(file for file in inside if file.is_file())
    if not files:
        raise ValueError(
            f"expected text at {path!r} (data.source.paths), found no file there: "
            f"give a file, a folder or a pattern, absolute or relative to {os.getcwd()}"
        )
    return files


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
