"""Labeled texts for classification: examples and their sources, one file per source.

A new source is one file here (or in any importable place) and one YAML file in `conf/data/` that names its class with
`_target_`, after `conf/data/text_classification/base.yaml`. There is no registry.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Example:
    """One labeled text, or pair of texts.

    Attributes:
        text: The text, or the first text of a pair (a premise).
        pair: The second text of a pair (a hypothesis); None for a single text.
        label: Name of the class.
        subcase: Kind of the example, if the source has kinds; never part of the input.
    """

    text: str
    pair: str | None
    label: str
    subcase: str = ""


@runtime_checkable
class ExampleSource(Protocol):
    """The interface of a source for TextClassificationDataModule; it must return the same examples each time."""

    def splits(self) -> dict[str, list[Example]]:
        """Return examples by split: `train`, `val`, and any number of splits out of distribution."""
        ...


def digest(examples: Sequence[Example]) -> str:
    """Return the sha256 of examples in order; splits with equal digests have equal texts and labels."""
    state = hashlib.sha256()
    for example in examples:
        state.update(json.dumps(astuple(example)).encode() + b"\n")
    return state.hexdigest()


def label_name(value: Any) -> str:
    """Return a label as text, the same for every spelling: other blanks, 0 or 0.0, composed or decomposed accents.

    Examples:
        >>> label_name(" yes"), label_name(0.0), label_name("0.0"), label_name(True)
        ('yes', '0', '0', 'true')
    """
    if isinstance(value, bool | float):
        value = json.dumps(value + 0.0 if isinstance(value, float) else value)
    text = unicodedata.normalize("NFC", " ".join(re.sub("[\u200b\ufeff]", "", str(value)).split()))
    match = re.fullmatch(r"(-?\d+)\.0*", text)
    return match[1] if match else text


def split_name(*parts: str) -> str:
    """Return the name of a split such as HEURISTIC.LABEL; characters that keys cannot have become _.

    Examples:
        >>> split_name("lexical_overlap", "non-entailment")
        'lexical_overlap.non_entailment'
    """
    return ".".join(re.sub(r"\W+", "_", part) for part in parts)
