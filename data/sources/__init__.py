"""Where documents come from: one file a source.

A new source is one file here (or anywhere importable) and one YAML in `conf/data/` that names its class with
`_target_`. Nothing is registered.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """What packing needs from a source. It may be read more than once and must give the same documents each time."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (id, text), one document at a time, in a fixed order; ids are unique within the source."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the documents do, without reading more than a warm start can afford."""
        ...
