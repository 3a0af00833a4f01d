"""What two models are compared on: a text in the tokens of each, or tokens from a file."""

import hashlib
import sys
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dissimilarity.cli.command import LEAST, LENGTH, SEQUENCES
from dissimilarity.cli.sides import Side
from dissimilarity.comparison.saved import SavedActivations, mapped, open_source
from dissimilarity.loading.context import context_of
from dissimilarity.loading.untrusted import panics_as_errors
from dissimilarity.probe.alignment import Alignment, Tokenized, align
from dissimilarity.tables.files import sha256_of

WHOLE = 2**22
"""Bytes up to which a text is read as a whole."""
BYTES_PER_TOKEN = 16
"""More than a token of any language has on average."""
SAMPLE = 20_000
"""Characters from which the length of a token is estimated."""


@dataclass(frozen=True)
class Probe:
    """What two sides are compared on.

    Attributes:
        inputs: tokens that both models read, or the alignment of two tokenizers; None for saved activations alone.
        tokenizer: the tokenizer of the first model's tokens; None if they are not text.
        notes: the entry in provenance.json.
        length: tokens of a sequence, counting padding.
    """

    inputs: Tensor | Alignment | None
    tokenizer: Any
    notes: dict[str, Any]
    length: int = 1

    @property
    def tokens(self) -> Tensor | None:
        """The tokens that both models read; None if each has its own."""
        return self.inputs if isinstance(self.inputs, Tensor) else None


def probe_of(
    sides: Sequence[Side], text: Path | None, tokens: Path | None, sequences: int | None, length: int | None
) -> Probe:
    """Return what two sides are compared on.

    Args:
        sides: the two sides.
        text: a text file; None for Python's own manual.
        tokens: a file of tokens in place of a text.
        sequences: most sequences to take from the text; None for the default.
        length: tokens per sequence; None for the default.

    Raises:
        ValueError: a model without a tokenizer and no file of tokens, a text that is too short, tokens that a model
            does not have.
    """
    models = [side for side in sides if side.model is not None]
    given = {"--text": text, "--tokens": tokens, "--sequences": sequences, "--length": length}
    unused = [name for name, value in given.items() if value is not None]
    if not models:
        if unused:
            raise ValueError(f"both sides are saved activations, which need no {' and no '.join(unused)}; leave it out")
        return Probe(None, None, {}, _positions(sides))
    if tokens is not None:
        if len(unused) > 1:
            others = " and no ".join(name for name in unused if name != "--tokens")
            raise ValueError(f"--tokens has all that models read, which needs no {others}; leave it out")
        return _of_tokens(models, tokens)
    if len(models) < 2:
        (model,) = models
        raise ValueError(
            f"{model.label} has to read the text of the saved activations: pass its tokens with --tokens FILE.npy"
        )
    for side in models:
        if side.tokenizer is None:
            raise ValueError(
                f"{side.label} has no tokenizer.json, so it cannot read text; pass --tokens FILE.npy, integers "
                "(sequences, positions), or write it: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
            )
    sequences, length = sequences or SEQUENCES, length or LENGTH
    name, words, digest = _read(text, sequences, length)
    notes = {"text": name, "sha256": digest}
    context = min((most for side in models if (most := context_of(side.model)) is not None), default=length)
    return _of_text(models, words, notes, sequences, min(length, context))


def _of_text(models: Sequence[Side], text: str, notes: dict[str, Any], sequences: int, length: int) -> Probe:
    """Return a text in the tokens of two models: the same rows if they share a tokenizer, else aligned by the text."""
    a, b = (side.tokenizer for side in models)
    assert a is not None and b is not None
    if a.to_str() == b.to_str():
        rows = _packed(text, a, sequences, length)
        return Probe(rows, a, {**notes, "sequences": len(rows), "length": rows.shape[1]}, rows.shape[1])
    from dissimilarity.loading.texts import encoded  # tokenizers are optional

    pieces = _pieces(text, a, sequences, length)
    aligned = align(Tokenized(*encoded(pieces, a)), Tokenized(*encoded(pieces, b)), pieces)
    for side, reading in zip(models, (aligned.a, aligned.b), strict=True):
        most = context_of(side.model)
        if most is not None and reading.tokens.shape[1] > most:
            raise ValueError(
                f"{side.label} reads at most {most} tokens, and a piece of the text takes up to "
                f"{reading.tokens.shape[1]} of them; type --length {max(1, length * most // reading.tokens.shape[1])}"
            )
    shares = {"share_a": round(aligned.share_a, 4), "share_b": round(aligned.share_b, 4), "words": aligned.units}
    notes = {**notes, "sequences": len(aligned.rows), "length": length, **shares}
    return Probe(aligned, a, notes, aligned.a.tokens.shape[1])


def _of_tokens(models: Sequence[Side], path: Path) -> Probe:
    try:
        array = mapped(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokens {path}: {error}; expected a .npy file of integers") from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"--tokens {path}: expected integers (sequences, positions), found {array.dtype} {array.shape}"
        )
    if len(array) < LEAST:
        raise ValueError(f"--tokens {path}: expected {LEAST} sequences or more, found {len(array)}")
    sizes = {side.label: _vocabulary(side) for side in models}
    known = {label: size for label, size in sizes.items() if size is not None}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{label} {size}" for label, size in known.items())
        raise ValueError(f"the models have vocabularies of different sizes ({listed}); pass --text FILE instead")
    tokens = torch.from_numpy(array.astype(np.int64))
    for label, size in known.items():
        if int(tokens.min()) < 0 or int(tokens.max()) >= size:
            raise ValueError(
                f"--tokens {path}: expected tokens 0 to {size - 1}, those of {label}, found {int(tokens.min())} to "
                f"{int(tokens.max())}"
            )
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return Probe(tokens, None, {"tokens": str(path), "sha256": digest, "sequences": len(tokens)}, tokens.shape[1])


def _positions(sides: Sequence[Side]) -> int:
    """Return the positions of a sequence of saved activations; 1 if each row is one."""
    sources = (open_source(side.source, side.label) for side in sides)
    arrays = (array for source in sources if isinstance(source, SavedActivations) for array in source.sites.values())
    return next((array.shape[1] for array in arrays if len(array.shape) > 2), 1)


def _vocabulary(side: Side) -> int | None:
    config = getattr(side.model, "config", None)
    size = getattr(side.model, "d_vocab", getattr(config, "vocab_size", None))
    return size if isinstance(size, int) else None


def _read(path: Path | None, sequences: int, length: int) -> tuple[str, str, str]:
    """Return the name of a text, the text, and its sha256: without a file, the manual that comes with Python.

    Of a long file, evenly spaced parts are read, which together are several times what models read.
    """
    if path is None:
        from pydoc_data.topics import topics

        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = "\n\n".join(topics[name] for name in sorted(topics))
        return f"the manual of Python {version}", text, hashlib.sha256(text.encode()).hexdigest()
    try:
        size, part = path.stat().st_size, BYTES_PER_TOKEN * length
        if size <= max(WHOLE, 2 * sequences * part):
            text = path.read_text(encoding="utf-8")
            return str(path), text, hashlib.sha256(text.encode()).hexdigest()
        with path.open("rb") as file:
            parts = [_part(file, size * number // sequences, part) for number in range(sequences)]
        return f"{sequences} parts of {path}", "\n\n".join(parts), sha256_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--text {path}: {error}; expected a file of text in UTF-8") from error


def _part(file: BinaryIO, start: int, size: int) -> str:
    """Return a part of a text without the characters and words that it cuts."""
    file.seek(start)
    text = file.read(size)
    while start and text and text[0] & 0xC0 == 0x80:  # within a character
        text = text[1:]
    words = getincrementaldecoder("utf-8")().decode(text).split(maxsplit=1 if start else 0)
    return "".join(words[-1:]).rpartition(" ")[0].strip() or "".join(words[-1:])


@panics_as_errors("the tokenizer of a model is broken")
def _packed(text: str, tokenizer: Any, sequences: int, length: int) -> Int64[Tensor, "sequences length"]:
    """Return evenly spaced rows of the text, each with the tokens that the tokenizer puts around a text."""
    tokenizer = _prepared(tokenizer)
    before, after = _around(tokenizer)
    inside = length - len(before) - len(after)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    rows = len(ids) // inside if inside > 0 else 0
    if rows < LEAST:
        raise ValueError(_too_short(len(ids), rows, length))
    starts = np.arange(min(sequences, rows)) * rows // min(sequences, rows) * inside
    return torch.tensor([[*before, *ids[start : start + inside], *after] for start in starts.tolist()])


def _prepared(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that neither pads nor truncates."""
    from dissimilarity.loading.texts import prepare  # tokenizers are optional

    return prepare(type(tokenizer).from_str(tokenizer.to_str()))


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after a text."""
    encoding = tokenizer.encode("a")
    mask, ids = encoding.special_tokens_mask, encoding.ids
    first = next((place for place, special in enumerate(mask) if not special), len(ids))
    last = len(ids) - next((place for place, special in enumerate(reversed(mask)) if not special), 0)
    return ids[:first], ids[max(first, last) :]


@panics_as_errors("the tokenizer of a model is broken")
def _pieces(text: str, tokenizer: Any, sequences: int, length: int) -> list[str]:
    """Return evenly spaced pieces of the text that end between words and have about `length` tokens of a model."""
    sample = text[:SAMPLE]
    count = len(_prepared(tokenizer).encode(sample, add_special_tokens=False).ids)
    characters = max(1, len(sample) * length // max(1, count))
    rows = len(text) // characters
    if rows < LEAST:
        raise ValueError(_too_short(count * len(text) // max(1, len(sample)), rows, length))
    starts = np.arange(min(sequences, rows)) * rows // min(sequences, rows) * characters
    return [_between_words(text, start, start + characters) for start in starts.tolist()]


def _between_words(text: str, start: int, stop: int) -> str:
    """Return a part of the text without the words that it cuts."""
    piece = text[start:stop]
    if start and not text[start - 1].isspace():
        piece = piece[len(piece.split(maxsplit=1)[0]) :] if piece.split() else piece
    if stop < len(text) and not text[stop].isspace():
        piece = piece.rsplit(maxsplit=1)[0] if len(piece.split()) > 1 else piece
    return piece.strip()


def _too_short(tokens: int, rows: int, length: int) -> str:
    return (
        f"the text has {tokens} tokens, which are {rows} sequences of {length}; expected {LEAST} or more: pass a "
        f"longer text, or --length {max(2, tokens // LEAST)}"
    )
