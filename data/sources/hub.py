"""Any text data set of the Hugging Face hub, streamed."""

import gc
import json
from collections.abc import Iterator
from itertools import islice


def check_name(name: str, key: str) -> None:
    """Refuse names that are formats to the library `datasets`, which it would look for in any folder.

    Raises:
        ValueError: a name without a slash.
    """
    if "/" not in name:
        raise ValueError(f"{key}={name}: expected ORGANIZATION/NAME of the hub, or a folder such as ./{name}")


class Hub:
    """A data set by name, read as a stream through the library `datasets`; nothing is downloaded beyond what is read.

    Training a tokenizer on it reads it twice (once for the tokenizer, once to pack). The fingerprint is the request
    (name, config, split, revision), not the contents, so that a warm start needs no network: give a `revision` to pin
    the contents too.

    Args:
        name: "organization/name" on the hub, or a local folder in the hub's layout.
        config: name of the configuration, where the data set has several.
        split: name of the split to read.
        text: name of the column that holds the text.
        revision: commit, tag or branch; None is the newest.
        max_documents: read no more than this many rows; None reads all.

    Raises:
        ValueError: while reading, if the data set cannot be reached or has no such column.
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
        """Yield (number of the row, text)."""
        for number, row in enumerate(self._rows()):
            text = row.get(self.text)
            if not isinstance(text, str):
                raise ValueError(
                    f"expected text in column {self.text!r} of {self.name!r}, found columns {sorted(row)}: "
                    f"type data.source.text=COLUMN"
                )
            yield str(number), text

    def _rows(self) -> Iterator[dict]:
        # Importing datasets takes a second, which the default data should not pay.
        from datasets import load_dataset

        try:
            stream = load_dataset(self.name, self.config, split=self.split, revision=self.revision, streaming=True)
            rows = iter(stream)
            try:
                yield from islice(rows, self.max_documents)
            finally:
                # A Parquet reader left in the middle can abort Python at its end (apache/arrow issue 45214), unless it
                # is closed and its cycles are collected while Arrow still stands.
                rows.close()
                gc.collect()
        except Exception as error:
            raise ValueError(
                f"could not read the data set {self.name!r} (config {self.config}, split {self.split!r}, revision "
                f"{self.revision}) from the Hugging Face hub: {error}. Without a network set HF_HUB_OFFLINE=1 to fail "
                f"at once, or use data that needs none: data=mix (the default), or data=files data.source.paths=[...]"
            ) from error

    def fingerprint(self) -> str:
        """Return the request as JSON."""
        request = [self.name, self.config, self.split, self.text, self.revision, self.max_documents]
        return f"hub:{json.dumps(request)}"
