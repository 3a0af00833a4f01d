"""The sentences of labeled examples as plain text, for pre-training on their words and forms."""

import hashlib
from collections.abc import Iterator
from functools import cached_property

from data.examples import Example, ExampleSource, digest


class Sentences:
    """The texts of the training split of `examples`, one per document, without labels and pairing.

    Args:
        examples: A source of examples (data/examples).
    """

    def __init__(self, examples: ExampleSource) -> None:
        self.examples = examples

    @cached_property
    def _train(self) -> list[Example]:
        return self.examples.splits()["train"]

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (number, sentence)."""
        texts = (text for example in self._train for text in (example.text, example.pair) if text is not None)
        yield from ((str(number), text) for number, text in enumerate(texts))

    def fingerprint(self) -> str:
        """Return a sha256 over the sentences."""
        return f"sentences:{hashlib.sha256(digest(self._train).encode()).hexdigest()}"
