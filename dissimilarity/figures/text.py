"""The figure of text colored by its influence on the dissimilarity of two models."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from dissimilarity.figures.style import STYLE
from dissimilarity.tables.influential_text import decoder, influence_grid, real_positions

COLUMNS = 116
"""Characters per line."""
MOST_LINES = 8
"""Lines per sequence; longer ones are cut around their most influential token."""
LINE = 0.15
"""Inches per line."""
COLORS = "RdBu_r"


def text_figure(
    row: Mapping[str, Any], tokens: Any, tokenizer: Any, top: int = 5, title: str = "", mask: Any = None
) -> Figure:
    """Draw the sequences that make two models differ most, each token on the color of its influence.

    Red tokens make the models look more different, blue ones more alike. Where each sequence is one sample, the whole
    sequence has one color. Tokens without a sample are gray.

    Args:
        row: a row of ``compare(..., influence=True)``.
        tokens: the tokens of the first model, (sequences, positions).
        tokenizer: a tokenizer with ``decode``, or a function that turns a list of tokens into text.
        top: how many sequences.
        title: title of the figure.
        mask: true at real positions; None if all are.

    Raises:
        ValueError: a row without influences, or tokens that do not fit it.

    Example:
        >>> row = {"token_influence": [0.1, -0.2, 0.4, 0.1], "token_index": [0, 1, 2, 3]}
        >>> figure = text_figure(row, [[5, 6], [7, 8]], lambda tokens: " ".join(map(str, tokens)))
        >>> [text.get_text() for text in figure.axes[0].texts][-2:]
        ['5', ' 6']
    """
    grid, decode = np.asarray(tokens), decoder(tokenizer)
    influence, real = influence_grid(row, grid), real_positions(grid, mask)
    if np.isfinite(influence).sum(1).max() == 1:
        influence = np.repeat(np.nansum(influence, 1, keepdims=True), grid.shape[1], 1)
        totals = influence[:, 0]
    else:
        totals = np.nansum(influence, 1)
    order = np.argsort(-totals, kind="stable")[:top]
    most = max(float(np.nanmax(np.abs(influence[order]))), 1e-30)
    norm, colors = TwoSlopeNorm(0, -most, most), mpl.colormaps[COLORS]
    blocks = []
    for sequence in order:
        pieces = _pieces(grid[sequence][real[sequence]].tolist(), decode)
        lines = _lines(pieces, influence[sequence][real[sequence]])
        blocks.append((f"sequence {sequence}: {totals[sequence]:+.2g}", lines))
    height = sum(len(lines) + 1.6 for _, lines in blocks)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 0.75 + LINE * height))
        inches = figure.get_size_inches()[1]
        axes = figure.add_axes((0.02, 0.5 / inches, 0.96, 1 - 0.75 / inches))
        axes.set(xlim=(0, COLUMNS), ylim=(height, 0))
        axes.axis("off")
        axes.set_title(title, loc="left")
        place = 0.0
        for label, lines in blocks:
            axes.text(0, place + 0.8, label, fontsize=7, color="0.35", va="center")
            for number, line in enumerate(lines):
                _draw_line(axes, line, place + 1.8 + number, norm, colors)
            place += len(lines) + 1.6
        bar = figure.add_axes((0.05, 0.36 / inches, 0.25, 0.08 / inches))
        figure.colorbar(ScalarMappable(norm, colors), cax=bar, orientation="horizontal", ticks=[-most, 0, most])
        bar.set_xticklabels([f"{-most:.1g}", "0", f"{most:.1g}"])
        words = "influence on the dissimilarity: red = makes the models look more different, blue = more alike"
        figure.text(0.35, 0.3 / inches, words, fontsize=7)
    return figure


Piece = tuple[str, float]


def _pieces(tokens: list[int], decode: Any) -> list[str]:
    """Return the text of each token, so that they add up to the text of all where prefixes do."""
    texts, before = [], ""
    for stop in range(1, len(tokens) + 1):
        through = decode(tokens[:stop])
        texts.append(through[len(before) :] if through.startswith(before) else decode(tokens[stop - 1 : stop]))
        before = through
    return texts


def _lines(pieces: list[str], influence: np.ndarray) -> list[list[Piece]]:
    """Break the text of a sequence into lines of characters; at most some of them, with its most influential token."""
    lines: list[list[Piece]] = [[]]
    room, peak = COLUMNS, 0
    strongest = int(np.nanargmax(np.abs(influence))) if np.isfinite(influence).any() else 0
    for index, (piece, value) in enumerate(zip(pieces, influence.tolist(), strict=True)):
        shown = piece.replace("\n", "⏎").replace("\t", " ").replace("$", r"\$")
        while shown:
            if len(shown) > room and room < min(len(shown), COLUMNS):
                lines.append([])
                room = COLUMNS
            lines[-1].append((shown[:room], value))
            peak = len(lines) - 1 if index == strongest else peak
            shown, room = shown[room:], room - len(shown[:room])
            if room == 0:
                lines.append([])
                room = COLUMNS
    lines = [line for line in lines if line]
    first = max(0, min(peak - MOST_LINES // 2, len(lines) - MOST_LINES))
    return lines[first : first + MOST_LINES]


def _draw_line(axes: Axes, line: list[Piece], y: float, norm: TwoSlopeNorm, colors: Any) -> None:
    """Draw tokens side by side, each on its color."""
    start = 0
    for text, value in line:
        color = "0.93" if np.isnan(value) else colors(norm(value))
        axes.fill_between([start, start + len(text)], y - 0.5, y + 0.5, color=color, linewidth=0)
        dark = not np.isnan(value) and abs(norm(value) - 0.5) > 0.35
        axes.text(
            start, y, text, family="monospace", fontsize=7.6, va="center_baseline", color="white" if dark else "black"
        )
        start += len(text)
