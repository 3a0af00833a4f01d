"""Where the parts of a figure are, in inches: panels, what is written around them, legends and notes.

All sizes are known beforehand, so nothing is drawn twice to find them out, and panels of one kind have one size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from textwrap import fill, wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from dissimilarity.figures.figure import PaperFigure, in_style

Ax = Axes | Sequence[Axes] | NDArray[Any]
"""Axes of the caller's own figure, as many as the figure has panels."""
Size = tuple[float | int, float | int]
"""Width and height in inches."""

LINE, ENTRY, NOTE = 0.135, 0.152, 0.1
"""Inches per line of text, of a legend, and of the notes."""
SMALL, LETTERS = 5.5, 26
"""Points of the letters of notes, and how many of them fit into an inch."""
HANDLE = 0.42
"""Inches of a legend beside its words."""


@dataclass(frozen=True)
class Legend:
    """A title, and a label and handle per entry."""

    title: str
    entries: Sequence[tuple[str, Any]]

    @property
    def width(self) -> float:
        """Inches from left to right, in one column."""
        return max(HANDLE + widest([label for label, _ in self.entries]), widest([self.title]))

    def columns(self, width: float) -> int:
        """Return how many columns fit into a width."""
        return max(1, int((width - 0.1) / (self.width + 0.25)))

    def height(self, columns: int = 1) -> float:
        """Inches from top to bottom."""
        return ENTRY * (math.ceil(len(self.entries) / columns) + bool(self.title)) + 0.1


@dataclass(frozen=True)
class Frame:
    """Inches around panels and between them, and what is written there.

    Attributes:
        left, right, bottom, top: around all panels, for ticks and labels.
        across, between: between columns, and between rows.
        title: above everything, from the left.
        notes: sentences in small letters below everything.
        legends: beside the panels, or below them where the figure is to be narrow.
    """

    left: float = 0.68
    right: float = 0.12
    bottom: float = 0.42
    top: float = 0.1
    across: float = 0.45
    between: float = 0.2
    title: str = ""
    notes: Sequence[str] = ()
    legends: Sequence[Legend] = ()


def make_panels(
    rows: int, columns: int, panel: Size, frame: Frame, figsize: Size | None = None, ax: Ax | None = None, **share: Any
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its panels (rows, columns), or the caller's own axes in that shape and their figure.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        panel: width and height of a panel, if there is no ``figsize``.
        frame: what is around them.
        figsize: width and height of the figure; its panels take the space that the frame leaves.
        ax: the caller's axes, which get the panels alone: no title, legend or notes.
        share: `sharex` and `sharey`, as for `Figure.subplots`.

    Raises:
        ValueError: another number of axes than panels, or a size without space for panels.

    Examples:
        >>> figure, axes = make_panels(1, 2, (1.5, 1.0), Frame(left=0.5, right=0.5, across=0.5, bottom=0.4))
        >>> figure.get_size_inches().tolist(), axes.shape
        ([4.5, 1.5], (1, 2))
    """
    if ax is not None:
        return _panels_of_caller(rows, columns, ax)
    is_beside = figsize is None or figsize[0] >= 1.6 * (frame.left + _beside(frame))
    gaps = np.array([frame.across * (columns - 1), frame.between * (rows - 1)])
    outer = _around(frame, gaps + np.array([columns, rows]) * panel, figsize, is_beside)
    size = outer.size
    inner = size - (outer.left + outer.right, outer.bottom + outer.top) - gaps
    if min(inner) < 0.3:
        least = ", ".join(f"{length:.1f}" for length in size - inner + 0.5)
        raise ValueError(f"figsize={figsize}: no space is left for the panels; give ({least}) inches or more")
    figure = PaperFigure(figsize=tuple(size))
    spaces = {"wspace": frame.across * columns / inner[0], "hspace": frame.between * rows / inner[1]}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=outer.shares | spaces, **share)
    margin = 0.06 / size
    if frame.title:
        figure.text(margin[0], 1 - margin[1], frame.title, va="top", color="0.35")
    figure.text(margin[0], margin[1], note_text(frame.notes, size[0]), va="bottom", fontsize=SMALL, color="0.45")
    x = size[0] - outer.right + 0.08 if is_beside else 0.06
    y = size[1] - outer.top + 0.04 if is_beside else outer.bottom - frame.bottom
    for legend in frame.legends:
        count = 1 if is_beside else legend.columns(size[0])
        _draw_legend(figure, legend, count, (x / size[0], y / size[1]))
        y -= legend.height(count)
    return figure, axes


def note_text(sentences: Sequence[str], width: float, letters: int = LETTERS) -> str:
    """Return sentences broken into lines of small letters that fit into a width in inches."""
    return "\n".join(line for sentence in sentences for line in wrap(sentence, max(24, int(letters * (width - 0.1)))))


def write_coverage(figure: Figure, *sentences: str) -> None:
    """Write below a finished figure what its intervals cover, in small gray letters on a strip of its own.

    Args:
        figure: a figure with the layout `constrained`, its legends included, and no label below all of its panels. It
            becomes taller by the strip.
        sentences: from `inference.coverage`.

    Examples:
        >>> figure = Figure(figsize=(4, 2), layout="constrained")
        >>> write_coverage(figure, "Intervals cover other text of this kind.")
        >>> round(float(figure.get_figheight()), 2)
        2.18
    """
    width, height = figure.get_size_inches()
    # A second legend reaches the lower corner.
    beside = max(legend.get_window_extent().width for legend in figure.legends) if len(figure.legends) > 1 else 0.0
    text = note_text(sentences, width - beside / figure.dpi)
    strip = 0.08 + NOTE * (text.count("\n") + 1)
    figure.set_figheight(height + strip)
    share = strip / (height + strip)
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(rect=(0, share, 1, 1 - share))
    note = figure.text(0.04 / width, 0.2 * share, text, va="bottom", fontsize=SMALL, color="0.45")
    note.set_in_layout(False)


@lru_cache(4096)
def _width(text: str, points: float) -> float:
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=points), ismath=False)[0] / 72


def widest(texts: Sequence[str], points: float = 7.0) -> float:
    """Return the inches that the widest of some texts takes; 0 without any.

    Examples:
        >>> round(widest(["resid_post", "a"]), 1)
        0.5
    """
    return max((_width(text, points) for text in texts), default=0.0)


def fill_inches(text: str, width: float, points: float = 8.0) -> str:
    r"""Return a text broken into lines that are no wider than some inches.

    Examples:
        >>> fill_inches("W" * 30, 1.5).split("\n") == ["W" * 13, "W" * 13, "W" * 4]
        True
    """
    letters = max(1, len(text))
    while letters > 1 and widest(wrap(text, letters), points) > width:
        letters = min(letters - 1, int(0.95 * letters))
    return fill(text, letters)


@dataclass(frozen=True)
class _Outer:
    """The size of a figure, and the inches around its panels."""

    size: NDArray[np.float64]
    left: float
    right: float
    bottom: float
    top: float

    @property
    def shares(self) -> dict[str, float]:
        width, height = self.size
        across = {"left": self.left / width, "right": 1 - self.right / width}
        return across | {"bottom": self.bottom / height, "top": 1 - self.top / height}


def _around(frame: Frame, panels: NDArray[Any], figsize: Size | None, is_beside: bool) -> _Outer:
    """Return the size of a figure, and what is around its panels with title, notes and legends."""
    right = _beside(frame) if is_beside else frame.right
    top = frame.top + (LINE + 0.1 if frame.title else 0)
    width = frame.left + right + panels[0] if figsize is None else figsize[0]
    notes = note_text(frame.notes, width).count("\n") + 1 if frame.notes else 0
    bottom = frame.bottom + (NOTE * notes + 0.1 if notes else 0)
    if figsize is None:
        legends = sum(legend.height() for legend in frame.legends)
        figsize = width, top + max(panels[1], legends) + bottom
    if not is_beside:
        bottom += sum(legend.height(legend.columns(width)) for legend in frame.legends)
    return _Outer(np.array(figsize), frame.left, right, bottom, top)


def _beside(frame: Frame) -> float:
    """Return the inches to the right of the panels if legends are there."""
    return max(frame.right, *(legend.width + 0.12 for legend in frame.legends)) if frame.legends else frame.right


def _draw_legend(figure: Figure, legend: Legend, columns: int, place: tuple[float, float]) -> None:
    labels, handles = zip(*legend.entries, strict=True)
    with in_style():
        drawn = figure.legend(
            handles,
            labels,
            title=legend.title or None,
            loc="upper left",
            bbox_to_anchor=place,
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
            alignment="left",
        )
    drawn.set_in_layout(False)


def _panels_of_caller(rows: int, columns: int, ax: Ax) -> tuple[Figure, NDArray[Any]]:
    axes = np.array(ax, dtype=object)
    if axes.size != rows * columns:
        raise ValueError(
            f"ax: expected {rows} x {columns} axes, one per panel, found {axes.size}; pass as many, or select what is "
            'to be drawn, such as select(table, measure="cka")'
        )
    axes = axes.reshape(rows, columns)
    figure = axes[0, 0].get_figure(root=True)
    assert figure is not None
    return figure, axes
