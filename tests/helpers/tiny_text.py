"""A small corpus that every test of the data can afford, and sources that misbehave on request."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path


class Texts:
    """A source that gives the strings it was made with; `before(number)` runs ahead of each document."""

    def __init__(self, texts: list[str], before: Callable[[int], None] = lambda number: None) -> None:
        self.texts = texts
        self.before = before

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (number, text)."""
        for number, text in enumerate(self.texts):
            self.before(number)
            yield str(number), text

    def fingerprint(self) -> str:
        """Return the texts themselves."""
        return json.dumps(self.texts)


def tiny_texts(count: int = 200, words: int = 60, seed: int = 0) -> list[str]:
    """Return `count` different documents of about `words` words, with accents, line ends and a Zipf-like vocabulary."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucé"
    vocabulary = ["".join(chance.choices(letters, k=chance.randint(1, 8))) for _ in range(300)]
    weights = [1 / rank for rank in range(1, 301)]
    return [
        f"{number}: " + "".join(word + chance.choice("    \n") for word in chance.choices(vocabulary, weights, k=words))
        for number in range(count)
    ]


def write_jsonl(file: Path, texts: list[str], field: str = "text") -> Path:
    """Write one document per line."""
    file.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return file
