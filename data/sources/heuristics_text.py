"""The sentences of the grammar of data=heuristics as plain text, so that a pre-trained model knows its words."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from random import Random

from data.examples.drawing import rounds
from data.examples.grammar import SUBCASES, draw


class HeuristicsText:
    """Single sentences, premises and hypotheses, one a document; nothing says which belong together or what follows.

    Args:
        sentences: how many, at least 1.
        seed: draws them.

    Raises:
        ValueError: no sentences asked for.
    """

    def __init__(self, sentences: int = 40000, seed: int = 0) -> None:
        if sentences < 1:
            raise ValueError(f"expected sentences >= 1 in data.source.sources, found {sentences}")
        self.sentences = sentences
        self.seed = seed

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (number, sentence): of every kind of premise as many, half of them premises."""
        chance = Random(f"text {self.seed}")
        for number, kind in enumerate(rounds(SUBCASES, self.sentences, chance)):
            drawn = draw(kind, chance)
            hypothesis = chance.choice((drawn.entailed, drawn.trap, drawn.foreign))
            yield str(number), drawn.premise if chance.random() < 0.5 else hypothesis

    def fingerprint(self) -> str:
        """Return the recipe and a sha256 of the grammar's first sentences."""
        state = hashlib.sha256()
        for number, text in islice(self.documents(), 1000):
            state.update(f"{number} {text}\n".encode())
        return f"heuristics:{self.sentences}:{self.seed}:{state.hexdigest()}"
