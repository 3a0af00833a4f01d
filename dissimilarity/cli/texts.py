"""What models read, as files hold it: texts, their tokens, and files of tokens. Nothing here needs torch."""

import hashlib
import sys
from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dissimilarity.cli.command import LEAST
from dissimilarity.comparison.array_files import mapped
from dissimilarity.loading.untrusted import panics_as_errors, prepare
from dissimilarity.tables.files import sha256_of

Span = tuple[int, int]
"""Where a token starts and ends in a text, in characters; equal for a token without text."""
WHOLE = 2**22
"""Bytes up to which a text is read as a whole."""
BYTES_PER_TOKEN = 16
"""More than a token of any language has on average."""
SAMPLE = 20_000
"""Characters from which the length of a token is estimated."""


def read_text(path: Path | None, sequences: int, length: int) -> tuple[str, str, str]:
    """Return the name of a text, the text, and its sha256: without a file, the manual that comes with Python.

    Of a long file, evenly spaced parts are read, which together are several times what models read.

    Raises:
        ValueError: it cannot be read, or is no UTF-8.
    """
    if path is None:
        from pydoc_data.topics import topics

        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = "\n\n".join(topics[name] for name in sorted(topics))
        return f"the manual of Python {version}", text, hashlib.sha256(text.encode()).hexdigest()
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"--text {path}: expected a file, found a pipe or a device; write the text into a file")
        size, part = path.stat().st_size, BYTES_PER_TOKEN * length
        if size <= max(WHOLE, 2 * sequences * part):
            text = path.read_text(encoding="utf-8")
            return str(path), text, hashlib.sha256(text.encode()).hexdigest()
        with path.open("rb") as file:
            parts = [_part(file, size * number // sequences, part) for number in range(sequences)]
        return f"{sequences} parts of {path}", "\n\n".join(parts), sha256_of(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {path}: it is not UTF-8; convert it, for example with iconv -t utf-8") from error
    except OSError as error:
        raise ValueError(f"--text {path}: {error.strerror}; give a UTF-8 text file") from error


def _part(file: BinaryIO, start: int, size: int) -> str:
    """Return a part of a text without the characters and words that it cuts."""
    file.seek(start)
    text = file.read(size)
    while start and text and text[0] & 0xC0 == 0x80:  # within a character
        text = text[1:]
    words = getincrementaldecoder("utf-8")().decode(text).split(maxsplit=1 if start else 0)
    return "".join(words[-1:]).rpartition(" ")[0].strip() or "".join(words[-1:])


@panics_as_errors("the tokenizer of a model is broken")
def is_same(a: Any, b: Any, text: str) -> bool:
    """Return whether two tokenizers give a text the same tokens, and put the same around it.

    Their files may still differ: the tokenizer of a GGUF file has tokens that its original lacks.
    """
    if a is b or a.to_str() == b.to_str():
        return True
    a, b = _copied(a), _copied(b)
    if _around(a) != _around(b):
        return False
    parts = (text[:SAMPLE], text)  # most that differ do so in the first
    return all(_ids(a, part) == _ids(b, part) for part in parts)


@panics_as_errors("the tokenizer of a model is broken")
def packed(text: str, tokenizer: Any, sequences: int, length: int) -> tuple[list[list[int]], list[list[Span]]]:
    """Return evenly spaced rows of a text, each with the tokens that the tokenizer puts around a text, and their spans.

    Args:
        text: the text.
        tokenizer: the tokenizer of both models.
        sequences: rows at most.
        length: tokens per row.

    Raises:
        ValueError: the text is too short.
    """
    tokenizer = _copied(tokenizer)
    before, after = _around(tokenizer)
    inside = length - len(before) - len(after)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ids, spans = encoding.ids, encoding.offsets
    rows = len(ids) // inside if inside > 0 else 0
    if rows < LEAST:
        raise ValueError(_too_short(len(ids), length))
    starts = (np.arange(min(sequences, rows)) * rows // min(sequences, rows) * inside).tolist()
    around = [(0, 0)] * len(before), [(0, 0)] * len(after)
    return (
        [[*before, *ids[start : start + inside], *after] for start in starts],
        [[*around[0], *spans[start : start + inside], *around[1]] for start in starts],
    )


@panics_as_errors("the tokenizer of a model is broken")
def pieces(text: str, tokenizer: Any, sequences: int, length: int) -> list[str]:
    """Return evenly spaced pieces of a text that end between words and have about `length` tokens of a model.

    Raises:
        ValueError: the text is too short.
    """
    sample = text[:SAMPLE]
    count = len(_ids(_copied(tokenizer), sample))
    characters = max(1, len(sample) * length // max(1, count))
    rows = len(text) // characters
    if rows < LEAST:
        raise ValueError(_too_short(count * len(text) // max(1, len(sample)), length))
    starts = np.arange(min(sequences, rows)) * rows // min(sequences, rows) * characters
    return [_between_words(text, start, start + characters) for start in starts.tolist()]


def tokens_in(path: Path, vocabularies: Mapping[str, int]) -> np.ndarray:
    """Return the tokens (sequences, positions) of a .npy file.

    Args:
        path: the file.
        vocabularies: how many tokens each model has, by its name, where that is known.

    Raises:
        ValueError: other content, too few sequences, models of different vocabularies, or tokens that they lack.
    """
    try:
        array = mapped(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokens {path}: {error}; expected a .npy file of integers") from error
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(
            f"--tokens {path}: expected integers (sequences, positions), found {array.dtype} {array.shape}"
        )
    if len(array) < LEAST:
        raise ValueError(f"--tokens {path}: expected {LEAST} sequences or more, found {len(array)}")
    if different := _different(vocabularies):
        raise ValueError(
            f"{different}, so the same tokens mean different text; pass --text FILE, for which each model needs its "
            "tokenizer.json"
        )
    least, most = int(array.min()), int(array.max())
    for label, size in vocabularies.items():
        if least < 0 or most >= size:
            raise ValueError(
                f"--tokens {path}: expected tokens 0 to {size - 1}, the vocabulary of {label}, found {least} to {most}"
            )
    return array


def no_tokenizer(label: str, vocabularies: Mapping[str, int]) -> str:
    """Return what is wrong with a model without a tokenizer, and what to type.

    Args:
        label: its name.
        vocabularies: how many tokens each model has, by its name, where that is known.
    """
    problem = (
        f"{label} has no tokenizer.json, so it cannot read text; write it beside the weights: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
    )
    if different := _different(vocabularies):
        return f"{problem}; --tokens would not help, as {different}"
    return f"{problem}; or, if the models share a vocabulary, pass --tokens FILE.npy, integers (sequences, positions)"


def _different(vocabularies: Mapping[str, int]) -> str:
    """Return that vocabularies differ in size; empty if they do not."""
    listed = ", ".join(f"{label} {size}" for label, size in vocabularies.items())
    differ = len(set(vocabularies.values())) > 1
    return f"the models have vocabularies of different sizes ({listed})" if differ else ""


def _copied(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that neither pads nor truncates."""
    return prepare(type(tokenizer).from_str(tokenizer.to_str()))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and after a text."""
    encoding = tokenizer.encode("a")
    mask, ids = encoding.special_tokens_mask, encoding.ids
    first = next((place for place, special in enumerate(mask) if not special), len(ids))
    last = len(ids) - next((place for place, special in enumerate(reversed(mask)) if not special), 0)
    return ids[:first], ids[max(first, last) :]


def _between_words(text: str, start: int, stop: int) -> str:
    """Return a part of the text without the words that it cuts, unless it is within one word."""
    words = text[start:stop].split()
    piece = text[start:stop].strip()
    if len(words) > 1 and _is_within_word(text, start):
        piece = piece.removeprefix(words[0]).lstrip()
    if len(words) > 1 and _is_within_word(text, stop):
        piece = piece.removesuffix(words[-1]).rstrip() or piece
    return piece


def _is_within_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and not (text[place - 1].isspace() or text[place].isspace())


def _too_short(tokens: int, length: int) -> str:
    if not tokens:
        return "the text is empty: pass a longer text"
    shorter = f", or type --length {tokens // LEAST}" if tokens >= 2 * LEAST else ""
    needed = f"{LEAST} sequences of {length} are needed ({LEAST * length} tokens)"
    return f"the text has {tokens} tokens, and at least {needed}: pass a longer text{shorter}"
