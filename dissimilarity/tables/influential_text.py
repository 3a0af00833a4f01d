"""The text behind ``token_influence``: which sequences and tokens make two models differ most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dissimilarity.tables.token_texts import around, decoded, decoder


@dataclass(frozen=True)
class Passage:
    """A sequence, or a token of it with the text around it.

    Attributes:
        sequence: which sequence of the probe set.
        position: position of the token in it; None for a whole sequence.
        influence: influence on the dissimilarity: positive = it makes the models look more different.
        before: text before the token; empty for a whole sequence.
        text: the token, or the text of the sequence.
        after: text after the token.
    """

    sequence: int
    position: int | None
    influence: float
    before: str
    text: str
    after: str


@dataclass(frozen=True)
class InfluentialText:
    """What makes two models differ most by one measure at one pair of sites.

    Attributes:
        sequences: sequences by falling influence.
        tokens: tokens by falling influence; empty where each sequence is one sample.
    """

    sequences: list[Passage]
    tokens: list[Passage]


def influential_text(
    row: Mapping[str, Any],
    tokens: Any,
    tokenizer: Any,
    top: int = 5,
    context: int = 8,
    mask: Any = None,
    texts: Sequence[Sequence[str]] | None = None,
) -> InfluentialText:
    """Return the sequences and tokens that make two models differ most.

    Args:
        row: a row of ``compare(..., influence=True)``.
        tokens: the tokens of the first model, (sequences, positions).
        tokenizer: a tokenizer with ``decode``, or a function that turns a list of tokens into text.
        top: how many sequences and tokens.
        context: tokens of text on each side of a token.
        mask: true at real positions; None if all are.
        texts: the text of each token of each sequence; by default what the tokenizer makes of the tokens.

    Raises:
        ValueError: a row without influences, or tokens that do not fit it.

    >>> row = {"token_influence": [0.1, -0.2, 0.4, 0.1], "token_index": [0, 1, 2, 3]}
    >>> text = influential_text(row, [[5, 6], [7, 8]], lambda tokens: " ".join(map(str, tokens)), top=1)
    >>> text.sequences[0].text, round(text.sequences[0].influence, 6), text.tokens[0].after
    ('7 8', 0.5, ' 8')
    """
    grid = np.asarray(tokens)
    places, real = influence_grid(row, grid), real_positions(grid, mask)
    text_of = texts_of_tokens(grid, real, tokenizer, texts)
    totals = np.nansum(places, 1)
    sequences = [
        Passage(index, None, float(totals[index]), "", "".join(text_of(index)), "") for index in _largest(totals, top)
    ]
    if np.isfinite(places).sum(1).max() == 1:
        return InfluentialText(sequences, [])
    passages = []
    for place in _largest(places.flatten(), top):
        sequence, position = divmod(place, grid.shape[1])
        before, after = around(text_of(sequence), position, context)
        influence = float(places[sequence, position])
        passages.append(Passage(sequence, position, influence, before, text_of(sequence)[position], after))
    return InfluentialText(sequences, passages)


def texts_of_tokens(
    tokens: np.ndarray, real: np.ndarray, tokenizer: Any, texts: Sequence[Sequence[str]] | None
) -> Callable[[int], Sequence[str]]:
    """Return a function that returns the text of each token of a sequence: the given one, or what its tokens decode to.

    Args:
        tokens: the tokens (sequences, positions).
        real: which positions are text.
        tokenizer: a tokenizer with ``decode``, or a function that turns a list of tokens into text.
        texts: the text of each token of each sequence; None without it.
    """
    if texts is not None:
        return texts.__getitem__
    decode = decoder(tokenizer)
    return cache(lambda sequence: decoded(tokens[sequence].tolist(), real[sequence].tolist(), decode))


def influence_grid(row: Mapping[str, Any], tokens: Any) -> np.ndarray:
    """Return the influence at each position of the tokens (sequences, positions), NaN where there is no sample.

    Raises:
        ValueError: a row without influences, or tokens that do not fit it.
    """
    if not len(row.get("token_influence") or []):
        raise ValueError(f"expected a row with token_influence, found none{_note(row)}; pass compare(influence=True)")
    grid = np.full(np.asarray(tokens).shape, np.nan)
    index = np.asarray(row["token_index"])
    if grid.ndim != 2 or index.max() >= grid.size:
        raise ValueError(
            f"expected the tokens (sequences, positions) that were compared, found {grid.shape} for a sample at place "
            f"{int(index.max())}"
        )
    grid.reshape(-1)[index] = row["token_influence"]
    return grid


def real_positions(tokens: np.ndarray, mask: Any) -> np.ndarray:
    """Return which positions are text."""
    return np.ones(tokens.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)


def _largest(values: np.ndarray, count: int) -> Sequence[int]:
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    return [int(index) for index in order[:count] if np.isfinite(values[index])]


def _note(row: Mapping[str, Any]) -> str:
    return f" ({row['note']})" if row.get("note") else ""
