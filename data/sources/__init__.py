"""Sources of documents, one file per source.

A new source is one file here (or in any importable place) and one YAML file in `conf/data/` that names its class with
`_target_`. There is no registry.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """The interface of a source, which may be read several times and must yield the same documents each time."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (id, text), one document at a time, in a fixed order; ids are unique within the source."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes whenever the documents change, fast enough to be computed at every start."""
        ...
