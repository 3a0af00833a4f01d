"""The figure that all drawing functions return: the same wherever it is drawn, saved or shown."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dissimilarity.tables.files import replacing

Format = Literal["png", "pdf", "svg"]
STYLE: Any = mpl.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False)
NO_MATH: Any = {"text.parse_math": False}
"""Names and texts are those of the user, in which a dollar is a dollar."""
PIXELS = 3000
"""Rows of pixels in an image; a taller figure has fewer per inch."""


@contextmanager
def in_style() -> Iterator[None]:
    """Draw with the settings of matplotlib that our figures have, whatever those of the user are.

    Examples:
        >>> with in_style():
        ...     mpl.rcParams["pdf.fonttype"]
        42
    """
    with matplotlib.style.context(["default", STYLE, NO_MATH]):
        yield


class PaperFigure(Figure):
    """A figure that keeps its style outside of the function that drew it, and shows itself in a notebook.

    It belongs to no window and not to pyplot.

    Examples:
        >>> PaperFigure(figsize=(3.25, 2)).get_dpi()
        200.0
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        with in_style():
            super().__init__(*args, **options)

    def draw(self, renderer: Any) -> None:
        """Draw in the style: some parts, such as ticks, are made when they are first drawn."""
        with in_style():
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save in the style, which embeds fonts."""
        with in_style():
            super().savefig(fname, **options)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the image for a notebook, with its width and height on a page."""
        width, height = self.get_size_inches()
        return png_of(self), {"width": round(96 * width), "height": round(96 * height)}


def png_of(figure: Figure) -> bytes:
    r"""Return a figure as a PNG file.

    Examples:
        >>> png_of(PaperFigure(figsize=(1, 1)))[:4]
        b'\x89PNG'
    """
    image = io.BytesIO()
    _write(figure, image, "png")
    return image.getvalue()


def pixels_of(figure: Figure, dpi: float) -> NDArray[np.uint8]:
    """Return a figure as an image (height, width, 3)."""
    with in_style():
        figure.set_dpi(min(dpi, PIXELS / figure.get_figheight()))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure into a folder as NAME.png, NAME.pdf or NAME.svg, and return the paths.

    Each file is replaced in one step.

    Args:
        figure: the figure.
        folder: created if it does not exist.
        name: file name without its suffix.
        formats: any of `png`, `pdf` and `svg`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in write_figure(PaperFigure(), Path(folder), "empty", ["png", "svg"])]
        ['empty.png', 'empty.svg']
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    for path in paths:
        with replacing(path) as part, open(part, "wb") as file:
            _write(figure, file, path.suffix.removeprefix("."))
        figure.set_layout_engine("none")
    return paths


def _write(figure: Figure, file: Any, kind: str) -> None:
    """Write one file. `savefig` would lay out each figure twice and draw it four times."""
    with in_style():
        if kind == "png":
            dpi = figure.get_dpi()
            figure.set_dpi(min(dpi, PIXELS / figure.get_figheight()))
            FigureCanvasAgg(figure).print_png(file)
            figure.set_dpi(dpi)
        elif kind == "pdf":
            from matplotlib.backends.backend_pdf import FigureCanvasPdf  # whose import delays a training by 0.3 s

            FigureCanvasPdf(figure).print_pdf(file)
        else:
            from matplotlib.backends.backend_svg import FigureCanvasSVG

            FigureCanvasSVG(figure).print_svg(file)
