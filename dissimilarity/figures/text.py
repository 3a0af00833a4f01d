"""The figure of text colored by its influence on the dissimilarity of two models."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import LINE, Ax, Frame, Size, make_panels
from dissimilarity.tables.influential_text import influence_grid, real_positions, texts_of_tokens
from dissimilarity.tables.token_texts import printable

COLUMNS = 116
"""Characters per line."""
MOST_LINES = 8
"""Lines per sequence; longer ones are cut around their most influential token."""
MEANING = "red = makes the models look more different, blue = more alike"
WIDTH, TEXT_LINE = 7.53, 0.15
"""Inches of a line, and from one to the next."""
COLORS = "RdBu_r"


@in_style()
def text_figure(
    row: Mapping[str, Any],
    tokens: Any,
    tokenizer: Any,
    top: int = 5,
    title: str = "",
    mask: Any = None,
    texts: Sequence[Sequence[str]] | None = None,
    *,
    figsize: Size | None = None,
    ax: Ax | None = None,
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
        texts: the text of each token of each sequence; by default what the tokenizer makes of the tokens.
        figsize: width and height in inches; by default as high as the text. Narrow figures have shorter lines.
        ax: axes of your own figure, which get the text alone.

    Raises:
        ValueError: a row without influences, or tokens that do not fit it.

    Examples:
        >>> row = {"token_influence": [0.1, -0.2, 0.4, 0.1], "token_index": [0, 1, 2, 3]}
        >>> figure = text_figure(row, [[5, 6], [7, 8]], lambda tokens: " ".join(map(str, tokens)))
        >>> [text.get_text() for text in figure.axes[0].texts][-2:]
        ['5', ' 6']
    """
    grid = np.asarray(tokens)
    influence, real = influence_grid(row, grid), real_positions(grid, mask)
    text_of = texts_of_tokens(grid, real, tokenizer, texts)
    if np.isfinite(influence).sum(1).max() == 1:
        influence = np.repeat(np.nansum(influence, 1, keepdims=True), grid.shape[1], 1)
        totals = influence[:, 0]
    else:
        totals = np.nansum(influence, 1)
    order = np.argsort(-totals, kind="stable")[:top]
    most = max(float(np.nanmax(np.abs(influence[order]))), 1e-30)
    norm, colors = TwoSlopeNorm(0, -most, most), mpl.colormaps[COLORS]
    width, lines_free = _space(figsize, ax)
    columns = int(COLUMNS * width / WIDTH)
    blocks = []
    for sequence in order:
        pieces = np.array(text_of(int(sequence)), object)[real[sequence]].tolist()
        lines = _lines(pieces, influence[sequence][real[sequence]], columns)
        lines = lines[: max(1, int(min(lines_free, 99) - 1.6))]
        lines_free -= len(lines) + 1.6
        if lines_free < 0 and blocks:
            break
        blocks.append((f"sequence {sequence}: {totals[sequence]:+.2g}", lines))
    height = sum(len(lines) + 1.6 for _, lines in blocks)
    words = fill(f"influence on the dissimilarity: {MEANING}", columns)
    title = fill(title, int(15 * width))
    above = 0.08 + LINE * (title.count("\n") + 1) if title else 0.05
    frame = Frame(left=0.15, bottom=0.3 + LINE * (words.count("\n") + 1), top=above)
    figure, axes = make_panels(1, 1, (WIDTH, TEXT_LINE * height), frame, figsize, ax)
    panel: Axes = axes[0, 0]
    panel.set(xlim=(0, columns), ylim=(height, 0))
    panel.axis("off")
    panel.set_title(title, loc="left")
    place = 0.0
    for label, lines in blocks:
        panel.text(0, place + 0.8, label, fontsize=7, color="0.35", va="center")
        for number, line in enumerate(lines):
            _draw_line(panel, line, place + 1.8 + number, norm, colors)
        place += len(lines) + 1.6
    if ax is None:
        _draw_bar(figure, ScalarMappable(norm, colors), most, words)
    return figure


def _space(figsize: Size | None, ax: Ax | None) -> tuple[float, float]:
    """Return the inches and the lines that there are for text."""
    if ax is not None:
        panel: Axes = np.array(ax, dtype=object).flat[0]
        figure = panel.get_figure(root=True)
        assert figure is not None
        width, height = np.multiply(panel.get_position().size, figure.get_size_inches())
    elif figsize is not None:
        width, height = figsize[0] - 0.27, figsize[1] - 0.9
    else:
        width, height = WIDTH, math.inf  # as high as the text
    return float(width), float(height) / TEXT_LINE


def _draw_bar(figure: Figure, shown: ScalarMappable, most: float, words: str) -> None:
    """Draw the color bar below the text, and what its colors mean."""
    width, height = figure.get_size_inches()
    bar = figure.add_axes((0.15 / width, 0.2 / height, 0.25, 0.08 / height))
    figure.colorbar(shown, cax=bar, orientation="horizontal", ticks=[-most, 0, most])
    lowest, *_ = bar.set_xticklabels([f"\N{MINUS SIGN}{most:.1g}", "0", f"{most:.1g}"])
    lowest.set_horizontalalignment("left")  # centered, it would not fit beside the edge of the figure
    figure.text(0.15 / width, 0.34 / height, words, fontsize=7)


Piece = tuple[str, float]


def _lines(pieces: list[str], influence: np.ndarray, columns: int) -> list[list[Piece]]:
    """Break the text of a sequence into lines of characters; at most some of them, with its most influential token."""
    lines: list[list[Piece]] = [[]]
    room, peak = columns, 0
    strongest = int(np.nanargmax(np.abs(influence))) if np.isfinite(influence).any() else 0
    for index, (piece, value) in enumerate(zip(pieces, influence.tolist(), strict=True)):
        shown = printable(piece).replace("\n", "⏎").replace("\t", " ")
        while shown:
            if len(shown) > room and room < min(len(shown), columns):
                lines.append([])
                room = columns
            lines[-1].append((shown[:room], value))
            peak = len(lines) - 1 if index == strongest else peak
            shown, room = shown[room:], room - len(shown[:room])
            if room == 0:
                lines.append([])
                room = columns
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
