"""Texts whose tokens have their influences, as plain values in `texts.json`, for pages that color them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dissimilarity.tables.files import replacing
from dissimilarity.tables.influential_text import influence_grid, real_positions, texts_of_tokens
from dissimilarity.tables.token_texts import printable

FILE = "texts.json"
ColoredText = dict[str, Any]
"""`title`, and `sequences` with `sequence`, `influence` and `pieces`: text and influence per token, None for no sample.
"""


def colored_text(
    row: Mapping[str, Any],
    tokens: Any,
    tokenizer: Any,
    title: str,
    top: int = 5,
    mask: Any = None,
    texts: Sequence[Sequence[str]] | None = None,
) -> ColoredText:
    """Return the sequences that make two models differ most, token by token.

    Args:
        row: a row of ``compare(..., influence=True)``.
        tokens: the tokens of the first model, (sequences, positions).
        tokenizer: a tokenizer with ``decode``, or a function that turns a list of tokens into text.
        title: what is compared.
        top: how many sequences.
        mask: true at real positions; None if all are.
        texts: the text of each token of each sequence; by default what the tokenizer makes of the tokens.

    Raises:
        ValueError: a row without influences, or tokens that do not fit it.

    Examples:
        >>> row = {"token_influence": [0.1, -0.2, 0.4, 0.1], "token_index": [0, 1, 2, 3]}
        >>> text = colored_text(row, [[5, 6], [7, 8]], lambda tokens: " ".join(map(str, tokens)), "cka", top=1)
        >>> text["sequences"]
        [{'sequence': 1, 'influence': 0.5, 'pieces': [['7', 0.4], [' 8', 0.1]]}]
    """
    grid = np.asarray(tokens)
    influence, real = influence_grid(row, grid), real_positions(grid, mask)
    text_of = texts_of_tokens(grid, real, tokenizer, texts)
    totals = np.nansum(influence, 1)
    sequences = []
    for index in np.argsort(-totals, kind="stable")[:top].tolist():
        values = [float(f"{value:.5g}") if math.isfinite(value) else None for value in influence[index][real[index]]]
        pieces = zip(np.array(text_of(index), object)[real[index]].tolist(), values, strict=True)
        total = float(f"{totals[index]:.5g}")
        shown = [[printable(text), value] for text, value in pieces]
        sequences.append({"sequence": index, "influence": total, "pieces": shown})
    return {"title": title, "sequences": sequences}


def write_texts(texts: Sequence[ColoredText], folder: Path) -> None:
    """Write texts into a folder, or remove those of an earlier command if there are none."""
    if not texts:
        (folder / FILE).unlink(missing_ok=True)
        return
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps({"texts": list(texts)}, ensure_ascii=False), encoding="utf-8")
