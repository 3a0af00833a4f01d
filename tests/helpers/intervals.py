"""Whether what shows an interval says what it covers."""

from collections.abc import Iterable

from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from dissimilarity.inference import coverage

SENTENCES = [value for name, value in vars(coverage).items() if name.isupper() and isinstance(value, str)]


def sentences_in(text: str) -> list[str]:
    """Return the sentences about coverage in a text, however its lines are broken."""
    return [sentence for sentence in SENTENCES if sentence in " ".join(text.split())]


def sentences_of(figure: Figure) -> list[str]:
    """Return the sentences about coverage on a figure."""
    return sentences_in("\n".join(text.get_text() for text in figure.texts))


def has_interval(figure: Figure) -> bool:
    """Return whether a figure has bands or bars."""
    return any(
        any(isinstance(part, FillBetweenPolyCollection) for part in axes.collections)
        or any(isinstance(part, ErrorbarContainer) for part in axes.containers)
        for axes in figure.axes
    )


def check_figures(figures: Iterable[Figure]) -> None:
    """Check that every figure with an interval has its sentence, inside the figure and on no panel or other text."""
    for figure in figures:
        if has_interval(figure):
            assert sentences_of(figure), [axes.get_title() for axes in figure.axes]
        if sentences_of(figure):
            check_place(figure)


def check_place(figure: Figure) -> None:
    """Check that the sentences of a figure overlap nothing."""
    figure.draw_without_rendering()
    note = next(text for text in figure.texts if sentences_in(text.get_text()))
    place = note.get_window_extent()
    assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1 and figure.bbox.y0 <= place.y0
    others = [axes.get_tightbbox() for axes in figure.axes]
    others += [legend.get_window_extent() for legend in figure.legends]
    others += [text.get_window_extent() for text in figure.texts if text is not note]
    assert not any(place.overlaps(other) for other in others if other is not None)
    panels = [axes.get_window_extent() for axes in figure.axes]
    assert not any(legend.get_window_extent().overlaps(panel) for legend in figure.legends for panel in panels)
