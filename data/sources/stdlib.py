"""The standard library of the running Python as a corpus of code."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tests are half of the library and mostly tables. Installed packages are inside it but not part of it.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Generated when Python is built, with the paths of the build machine.
SKIPPED_PREFIX = "_sysconfigdata"


class Stdlib:
    """Every .py file of the standard library except tests: about 730 documents, 12 MB in Python 3.11.

    It differs between Python versions, so the hash of the packed data is part of a run's record.
    """

    def __init__(self) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))

    def _files(self) -> list[tuple[str, Path]]:
        files = []
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
            for name in names:
                if name.endswith(".py") and not name.startswith(SKIPPED_PREFIX):
                    file = Path(folder, name)
                    files.append((file.relative_to(self.root).as_posix(), file))
        return sorted(files)

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (path below the library's root, text) in alphabetical order, except for files that are not UTF-8."""
        for name, file in self._files():
            try:
                yield name, file.read_bytes().decode()
            except UnicodeDecodeError:
                continue

    def fingerprint(self) -> str:
        """Return a sha256 over names and contents."""
        digest = hashlib.sha256()
        for name, file in self._files():
            digest.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return f"stdlib:{digest.hexdigest()}"
