"""Any text data set of the Hugging Face hub, streamed."""

import gc
import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dissimilarity.tables.files import sha256_of

HASHED_BYTES = 64 << 20
"""Larger files of a local folder are identified by size and modification time, because hashing takes seconds."""


def check_name(name: str, key: str) -> None:
    """Reject names that the library `datasets` reads as file formats, for which it would search any folder.

    Raises:
        ValueError: If the name has no slash.
    """
    if "/" not in name:
        raise ValueError(f"{key}={name}: expected ORGANIZATION/NAME of the hub, or a folder such as ./{name}")


class Hub:
    """A data set by name, streamed with the library `datasets`, which downloads only what is read.

    Training a tokenizer reads it twice, once for the tokenizer and once for packing. The fingerprint of a data set on
    the hub is the request (name, config, split, revision) rather than the contents, so that packed data needs no
    network; give a `revision` to pin the contents too. That of a local folder follows the contents of its files.

    Args:
        name: "organization/name" on the hub, or a local folder in the layout of the hub.
        config: Name of the configuration, if the data set has several.
        split: Name of the split to read.
        text: Name of the column of the text.
        revision: Commit, tag or branch; None = the newest.
        max_documents: Largest number of rows to read; None = all.

    Raises:
        ValueError: While reading, if the data set cannot be reached or has no such column.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        split: str = "train",
        text: str = "text",
        revision: str | None = None,
        max_documents: int | None = None,
    ) -> None:
        check_name(name, "data.source.name")
        if max_documents is not None and max_documents < 1:
            raise ValueError(f"expected data.source.max_documents >= 1 or null, found {max_documents}")
        self.name = name
        self.config = config
        self.split = split
        self.text = text
        self.revision = revision
        self.max_documents = max_documents

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (row number, text)."""
        for number, row in enumerate(self._rows()):
            text = row.get(self.text)
            if text is None and self.text in row:
                raise ValueError(
                    f"expected text in column {self.text!r} of {self.name!r}, found null in row {number}: delete the "
                    f"row, or read only those before it with data.source.max_documents={number}"
                )
            if not isinstance(text, str):
                raise ValueError(
                    f"expected text in column {self.text!r} of {self.name!r}, found columns {sorted(row)}: "
                    f"type data.source.text=COLUMN"
                )
            yield str(number), text

    def _rows(self) -> Iterator[dict]:
        # Importing datasets takes a second, which other data should not cost.
        from datasets import load_dataset

        try:
            stream = load_dataset(self.name, self.config, split=self.split, revision=self.revision, streaming=True)
            rows = iter(stream)
            try:
                yield from islice(rows, self.max_documents)
            finally:
                # A Parquet reader that was not read to its end can abort Python at exit (apache/arrow issue 45214)
                # unless it is closed and its reference cycles are collected before.
                rows.close()
                gc.collect()
        except Exception as error:
            raise ValueError(
                f"could not read the data set {self.name!r} (config {self.config}, split {self.split!r}, revision "
                f"{self.revision}) from the Hugging Face hub: {error}. Without a network set HF_HUB_OFFLINE=1 to fail "
                f"at once, or use data that needs none: data=mix (the default), or data=files data.source.paths=[...]"
            ) from error

    def fingerprint(self) -> str:
        """Return the request as JSON, with a hash of the contents instead of the name if it is a local folder."""
        folder = Path(self.name)
        name = _digest(folder) if folder.is_dir() else self.name
        return f"hub:{json.dumps([name, self.config, self.split, self.text, self.revision, self.max_documents])}"


def _digest(folder: Path) -> str:
    """Return a sha256 over the names and contents of the files of a folder, which changes with any of them."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = file.stat()
        large = status.st_size > HASHED_BYTES
        content = f"{status.st_size} {status.st_mtime_ns}" if large else sha256_of(file)
        digest.update(f"{file.relative_to(folder).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()
