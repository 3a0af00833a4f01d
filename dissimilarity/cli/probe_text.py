"""What two models are compared on: a text in the tokens of each, or tokens from a file."""

import argparse
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dissimilarity.cli.command import LEAST, LENGTH, SEQUENCES
from dissimilarity.cli.sides import Side
from dissimilarity.cli.texts import is_same, no_tokenizer, packed, pieces, read_text, tokens_in
from dissimilarity.comparison.saved import SavedActivations, open_source
from dissimilarity.loading.context import context_of
from dissimilarity.probe.alignment import SEQUENCES_LOST, Alignment, Tokenized, align
from dissimilarity.tables.token_texts import between


@dataclass(frozen=True)
class Probe:
    """What two sides are compared on.

    Attributes:
        inputs: tokens that both models read, or the alignment of two tokenizers; None for saved activations alone.
        tokenizer: the tokenizer of the first model's tokens; None if they are not text.
        notes: the entry in provenance.json.
        length: tokens of a sequence, counting padding.
        sources: the text that each sequence is from; none if tokens are not text.
        spans: where each token starts and ends in it (sequences, positions, 2).
    """

    inputs: Tensor | Alignment | None
    tokenizer: Any
    notes: dict[str, Any]
    length: int = 1
    sources: Sequence[str] = ()
    spans: Any = ()

    @property
    def tokens(self) -> Tensor | None:
        """The tokens that both models read; None if each has its own."""
        return self.inputs if isinstance(self.inputs, Tensor) else None

    @cached_property
    def texts(self) -> list[list[str]] | None:
        """The text of each of the first model's tokens by sequence, as it stands in the text; None without text."""
        if not self.sources:
            return None
        return [between(source, spans) for source, spans in zip(self.sources, self.spans, strict=True)]


def probe_of(sides: Sequence[Side], options: argparse.Namespace) -> Probe:
    """Return what two sides are compared on.

    Args:
        sides: the two sides.
        options: the command line, checked by `checked_places`.

    Raises:
        ValueError: a model without a tokenizer and no file of tokens, a text that is too short, tokens that a model
            does not have.
    """
    models = [side for side in sides if side.model is not None]
    if not models:
        return Probe(None, None, {}, _positions(sides))
    sizes = {side.label: _vocabulary(side) for side in models}
    vocabularies = {label: size for label, size in sizes.items() if size is not None}
    if options.tokens is not None:
        return _of_tokens(options.tokens, vocabularies)
    for side in models:
        if side.tokenizer is None:
            raise ValueError(no_tokenizer(side.label, vocabularies))
    sequences, length = options.sequences or SEQUENCES, options.length or LENGTH
    name, words, digest = read_text(options.text, sequences, length)
    notes = {"text": name, "sha256": digest}
    context = min((most for side in models if (most := context_of(side.model)) is not None), default=length)
    asked = min(length, context)
    probe = _of_text(models, words, notes, sequences, asked)
    if options.length is not None and (most := probe.notes["length"]) < options.length:
        longer = ""
        if most < asked:
            a, b = (side.label for side in models)
            longer = f", and some pieces with {asked} tokens of {a} have more of {b}"
        raise ValueError(f"--length {length}: the models read at most {context} tokens{longer}; type --length {most}")
    return probe


def _of_text(models: Sequence[Side], text: str, notes: dict[str, Any], sequences: int, length: int) -> Probe:
    """Return a text in the tokens of two models: the same rows if they share a tokenizer, else aligned by the text.

    Pieces become shorter than asked where a model would read more tokens than it can.
    """
    a, b = (side.tokenizer for side in models)
    assert a is not None and b is not None
    if is_same(a, b, text):
        ids, spans = packed(text, a, sequences, length)
        rows = torch.tensor(ids)
        _check_varied(rows, notes["text"])
        notes |= {"sequences": len(rows), "length": rows.shape[1]} | _why_fewer(len(rows), sequences)
        return Probe(rows, a, notes, rows.shape[1], [text] * len(rows), spans)
    parts, readings, aligned = _aligned(a, b, text, sequences, length)
    lost = len(parts) - len(aligned.rows)
    if len(aligned.rows) > sequences:
        aligned = aligned.part([place * len(aligned.rows) // sequences for place in range(sequences)])
    for side, reading in zip(models, (aligned.a, aligned.b), strict=True):
        most, longest = context_of(side.model), reading.tokens.shape[1]
        if most is not None and longest > most:
            if length == 1:
                raise ValueError(f"{side.label} reads at most {most} tokens, and one word of the text takes {longest}")
            return _of_text(models, text, notes, sequences, max(1, min(length - 1, length * most // longest)))
    shares = {"share_a": round(aligned.share_a, 4), "share_b": round(aligned.share_b, 4), "words": aligned.units}
    notes |= {"sequences": len(aligned.rows), "length": length, **shares}
    notes |= _why_fewer(len(aligned.rows), sequences, lost)
    taken, spans = list(aligned.rows), readings[0].spans
    return Probe(
        aligned, a, notes, aligned.a.tokens.shape[1], [parts[row] for row in taken], [spans[row] for row in taken]
    )


def _aligned(
    a: Any, b: Any, text: str, sequences: int, length: int
) -> tuple[list[str], tuple[Tokenized, Tokenized], Alignment]:
    """Return pieces of a text, more than are asked for, in the tokens of two models, and these aligned."""
    from dissimilarity.loading.texts import encoded  # tokenizers are optional

    parts = pieces(text, a, math.ceil(sequences / (1 - SEQUENCES_LOST)), length)
    readings = Tokenized(*encoded(parts, a)), Tokenized(*encoded(parts, b))
    return parts, readings, align(*readings, parts)


def _why_fewer(count: int, asked: int, lost: int = 0) -> dict[str, Any]:
    """Return why there are fewer sequences than were asked for, as notes; none if there are not."""
    if count >= asked:
        return {}
    without = f", and {lost} with fewer words were left out" if lost else ""
    return {"asked": asked, "why_fewer": f"the text is too short for more{without}"}


def _of_tokens(path: Path, vocabularies: Mapping[str, int]) -> Probe:
    array = tokens_in(path, vocabularies)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    tokens = torch.from_numpy(array.astype(np.int64))
    _check_varied(tokens, str(path))
    return Probe(tokens, None, {"tokens": str(path), "sha256": digest, "sequences": len(tokens)}, tokens.shape[1])


def _check_varied(rows: Tensor, name: str) -> None:
    """Check that sequences are not copies of a few, which would give intervals of no width.

    Raises:
        ValueError: they are.
    """
    different = len(torch.unique(rows, dim=0))
    if different < min(LEAST, len(rows)):
        some = "are all the same" if different == 1 else f"are copies of {different}"
        raise ValueError(f"the {len(rows)} sequences of {name} {some}; give {LEAST} or more that differ")


def _positions(sides: Sequence[Side]) -> int:
    """Return the positions of a sequence of saved activations; 1 if each row is one."""
    sources = (open_source(side.source, side.label) for side in sides)
    arrays = (array for source in sources if isinstance(source, SavedActivations) for array in source.sites.values())
    return next((array.shape[1] for array in arrays if len(array.shape) > 2), 1)


def _vocabulary(side: Side) -> int | None:
    config = getattr(side.model, "config", None)
    size = getattr(side.model, "d_vocab", getattr(config, "vocab_size", None))
    return size if isinstance(size, int) else None
