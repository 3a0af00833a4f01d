"""What a reader sees of a figure: its texts, those that leave it, and those printed over each other."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_of(figure: Figure) -> list[Text]:
    """Return every text that is drawn."""
    figure.draw_without_rendering()
    panels = [panel for axes in figure.axes for panel in _with_children(axes)]
    texts = [*figure.texts, *(text for panel in dict.fromkeys(panels) for text in _texts_on(panel))]
    for legend in [*figure.legends, *(panel.get_legend() for panel in figure.axes if panel.get_legend())]:
        texts += [legend.get_title(), *legend.get_texts()]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def _with_children(axes: Any) -> Iterator[Axes]:
    yield axes
    for child in axes.child_axes:
        yield from _with_children(child)


def _texts_on(panel: Any) -> Iterator[Text]:
    yield from (*panel.texts, panel.title, panel._left_title, panel._right_title)
    for axis in (panel.xaxis, panel.yaxis) if panel.axison else ():
        yield from (axis.label, axis.get_offset_text())
        yield from (tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible())
        yield from (tick.label2 for tick in axis._update_ticks() if tick.label2.get_visible())


def misprints(figure: Figure) -> list[str]:
    """Return the texts that leave a figure or are printed over another text; none if all is legible."""
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts_of(figure)]
    width, height, slack = figure.bbox.width, figure.bbox.height, 0.012 * figure.dpi
    wrong = [
        f"outside: {text!r} at {box} of {width:.0f} x {height:.0f}"
        for text, box in boxes
        if min(box.x0, box.y0) < -slack or box.x1 > width + slack or box.y1 > height + slack
    ]
    for (first, a), (second, b) in combinations(boxes, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack:
            wrong.append(f"over each other: {first!r} and {second!r}")
    return wrong
