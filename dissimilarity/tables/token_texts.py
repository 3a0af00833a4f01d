"""The text of each token of a sequence, and excerpts of whole words."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Characters that command a terminal, that no XML holds, that end a line unseen, or that UTF-8 does not encode."""
Decode = Callable[[list[int]], str]
"""Turns tokens into text."""
WORD_START, WORD_END = re.compile(r"\s"), re.compile(r"\s\S*$")
"""White space before the first whole word of a text, and after the last; languages without spaces have none."""


def printable(text: str) -> str:
    r"""Return a text as it can be shown anywhere: a replacement character for each control character.

    Examples:
        >>> printable("na\u00efve\x1b[31m\r\n")
        'naïve�[31m\n'
    """
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))


def decoder(tokenizer: Any) -> Decode:
    """Return a function that turns tokens into text."""
    return tokenizer.decode if hasattr(tokenizer, "decode") else tokenizer


def decoded(tokens: Sequence[int], real: Sequence[bool], decode: Decode) -> list[str]:
    """Return the text of each token, so that they add up to the text of all where prefixes do; empty for padding.

    Args:
        tokens: the tokens of a sequence.
        real: which positions are text.
        decode: turns tokens into text.

    Examples:
        >>> decoded([5, 6, 0], [True, True, False], lambda tokens: " ".join(map(str, tokens)))
        ['5', ' 6', '']
    """
    texts, before = [], ""
    prefix: list[int] = []
    for token, is_real in zip(tokens, real, strict=True):
        if not is_real:
            texts.append("")
            continue
        prefix.append(int(token))
        through = decode(prefix)
        texts.append(through[len(before) :] if through.startswith(before) else decode(prefix[-1:]))
        before = through
    return texts


def between(text: str, spans: Any) -> list[str]:
    """Return the text of each token, as it stands in a text; the first and the last word are whole.

    Args:
        text: the text.
        spans: where each token starts and ends in it (tokens, 2), equal for a token without text.

    Examples:
        >>> between("to be or not", [(0, 0), (4, 5), (6, 8), (9, 10)])
        ['', 'be', ' or', ' not']
    """
    ends = np.asarray(spans)
    inside = np.nonzero(ends[:, 0] < ends[:, 1])[0]
    texts = [""] * len(ends)
    if not len(inside):
        return texts
    place, stop = int(ends[inside[0], 0]), int(ends[inside[-1], 1])
    while place and not text[place].isspace() and not text[place - 1].isspace():
        place -= 1
    while stop < len(text) and not text[stop - 1].isspace() and not text[stop].isspace():
        stop += 1
    for token in inside.tolist():
        end = stop if token == inside[-1] else max(place, int(ends[token, 1]))
        texts[token], place = text[place:end], max(place, end)
    return texts


def around(texts: Sequence[str], position: int, context: int) -> tuple[str, str]:
    """Return the text before and after a token, without the words that are cut where it ends.

    A word that holds the token and is longer than the context is whole, unless it is twice as long.

    Args:
        texts: the text of each token of a sequence.
        position: position of the token.
        context: tokens on each side.

    Examples:
        >>> around(["the", " ri", "ver", " of", " th", "ings"], 3, 2)
        (' river', ' things')
        >>> around(["the", " ri", "ver", " of", " th", "ings"], 2, 2)
        ('the ri', ' of')
        >>> around(["a", " ri", "v", "e", "r", "s", " of"], 3, 1)
        (' riv', 'rs')
    """
    start, stop = max(0, position - context), min(len(texts), position + 1 + context)
    before, after = "".join(texts[start:position]), "".join(texts[position + 1 : stop])
    least, most = max(0, position - 2 * context), min(len(texts), position + 1 + 2 * context)
    while start > least and _is_cut(texts[start - 1], before) and not WORD_START.search(before):
        start, before = start - 1, texts[start - 1] + before
    while stop < most and _is_cut(after, texts[stop]) and not WORD_START.search(after):
        stop, after = stop + 1, after + texts[stop]
    if _is_cut("".join(texts[:start]), before) and (inner := WORD_START.search(before)):
        before = before[inner.start() :]
    if _is_cut(after, "".join(texts[stop:])) and (inner := WORD_END.search(after)):
        after = after[: inner.start()]
    return before, after


def _is_cut(left: str, right: str) -> bool:
    """Return whether a word lies on both sides of a place."""
    return bool(left and right) and not (left[-1].isspace() or right[0].isspace())
