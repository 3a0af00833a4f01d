"""Several sources as one."""

import hashlib
from collections.abc import Iterator, Sequence

from data.sources import Source


class Mix:
    """The documents of all `sources`, interleaved so that each has contributed about as many characters as the others.

    When one ends, the others continue, so every document occurs exactly once.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("expected at least one source in data.source.sources, found an empty list")
        self.sources = list(sources)

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield ("position of the source/id", text)."""
        streams = dict(enumerate(iter(source.documents()) for source in self.sources))
        lengths = dict.fromkeys(streams, 0)
        while streams:
            shortest = min(streams, key=lambda position: lengths[position])
            document = next(streams[shortest], None)
            if document is None:
                del streams[shortest]
                continue
            name, text = document
            lengths[shortest] += len(text)
            yield f"{shortest}/{name}", text

    def fingerprint(self) -> str:
        """Return a sha256 over the fingerprints of the sources, in order."""
        joined = "\n".join(source.fingerprint() for source in self.sources)
        return f"mix:{hashlib.sha256(joined.encode()).hexdigest()}"
