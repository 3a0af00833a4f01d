"""Labeled texts for classification: what an example is, and where examples come from, one file a source.

A new source is one file here (or anywhere importable) and one YAML in `conf/data/` that names its class with
`_target_`, after `conf/data/text_classification/base.yaml`. Nothing is registered.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Example:
    """One labeled text, or pair of texts.

    Attributes:
        text: the text, or the first of the pair (a premise).
        pair: the second of the pair (a hypothesis); None where there is but one.
        label: name of the class.
        subcase: which kind of example it is, where the source has kinds; part of no input.
    """

    text: str
    pair: str | None
    label: str
    subcase: str = ""


@runtime_checkable
class ExampleSource(Protocol):
    """What a TextClassificationDataModule needs from a source; it must give the same examples each time."""

    def splits(self) -> dict[str, list[Example]]:
        """Return examples by the name of their split: `train`, `val`, and any others, out of distribution."""
        ...


def digest(examples: Sequence[Example]) -> str:
    """Return the sha256 of examples, in order: two splits with the same digest are the same text and labels."""
    state = hashlib.sha256()
    for example in examples:
        state.update(json.dumps(astuple(example)).encode() + b"\n")
    return state.hexdigest()


def split_name(*parts: str) -> str:
    """Return the name of the split of these parts, such as HEURISTIC.LABEL; signs that keys cannot have become _."""
    return ".".join(re.sub(r"\W+", "_", part) for part in parts)
