"""The common style of all figures: fonts, names of sites, colors, the scale of dissimilarity."""

import re
from collections.abc import Container, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from dissimilarity.capture.sites import split_layer
from dissimilarity.tables.files import replacing

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "figure.dpi": 200,
}
SMALL, LETTERS, LINE = 5.5, 26, 0.1
"""Size of small letters, how many of them fit into an inch, and inches per line of them."""
MEANING = "dissimilarity (0 = same)"


def write_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure into a folder as NAME.png, NAME.pdf or both, and return the paths.

    Each file is replaced in one step.

    Args:
        figure: the figure.
        folder: created if it does not exist.
        name: file name without its suffix.
        formats: `png`, `pdf` or both.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in write_figure(Figure(), Path(folder), "empty", ["png"])]
        ['empty.png']
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    # `savefig` would lay out each figure twice and draw it four times.
    with mpl.rc_context(STYLE):
        for path in paths:
            with replacing(path) as part:
                if path.suffix == ".png":
                    FigureCanvasAgg(figure).print_png(part)
                else:
                    FigureCanvasPdf(figure).print_pdf(part)
            figure.set_layout_engine("none")
    return paths


def write_coverage(figure: Figure, *sentences: str) -> None:
    """Write below a finished figure what its intervals cover, in small gray letters on a strip of its own.

    Args:
        figure: a figure with the layout `constrained`, its legends included, and no label below all of its panels. It
            becomes taller by the strip.
        sentences: from `inference.coverage`.

    Example:
        >>> figure = Figure(figsize=(4, 2), layout="constrained")
        >>> write_coverage(figure, "Intervals cover other text of this kind.")
        >>> round(float(figure.get_figheight()), 2)
        2.18
    """
    width, height = figure.get_size_inches()
    # A second legend reaches the lower corner.
    beside = max(legend.get_window_extent().width for legend in figure.legends) if len(figure.legends) > 1 else 0.0
    letters = max(24, int(LETTERS * (width - beside / figure.dpi)))
    lines = [line for sentence in sentences for line in wrap(sentence, letters)]
    strip = 0.08 + LINE * len(lines)
    figure.set_figheight(height + strip)
    share = strip / (height + strip)
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(rect=(0, share, 1, 1 - share))
    note = figure.text(0.04 / width, 0.2 * share, "\n".join(lines), va="bottom", fontsize=SMALL, color="0.45")
    note.set_in_layout(False)


def file_name(parts: list[str], taken: Container[str]) -> str:
    """Return a file name that is not taken, with characters that every file system allows.

    Example:
        >>> file_name(["heatmap", "runs/solu w64"], taken=[])
        'heatmap_runs-solu-w64'
    """
    name = "_".join(re.sub(r"[^\w.=@+-]+", "-", part).strip("-") for part in parts)
    while name in taken:
        name += "-"
    return name


def without_layer(kind: str) -> str:
    """Return the name of a kind of site without its layer: `blocks.{}.resid_post` -> `resid_post`."""
    return kind.removeprefix("blocks.{}.").replace(".{}", "")


def short_names(sites: list[str]) -> tuple[str, list[str]]:
    """Return a title and a short name per site: the layer if all sites are of one kind, else the name.

    Example:
        >>> short_names(["blocks.0.resid_post", "blocks.1.resid_post"])
        ('resid_post of block', ['0', '1'])
    """
    split = [split_layer(site) for site in sites]
    kinds = {kind for kind, _ in split}
    if len(kinds) == 1 and split[0][1] is not None:
        return f"{without_layer(split[0][0])} of block", [str(layer) for _, layer in split]
    return "site", [site.removeprefix("blocks.") for site in sites]


def colors_of(sites: Sequence[str]) -> dict[str, Any]:
    """Return a color for each site, along one scale in the order of depth."""
    return dict(zip(sites, mpl.colormaps["viridis"](np.linspace(0, 0.88, len(sites))), strict=True))


def spread(items: list[Any], limit: int) -> list[Any]:
    """Return at most `limit` of the items, evenly spaced, including the first and the last.

    Example:
        >>> spread([0, 1, 2, 3, 4, 5, 6], 3)
        [0, 3, 6]
    """
    if len(items) <= limit:
        return items
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def style_step_axis(panel: Axes, last: int) -> None:
    """Make the step axis of a figure logarithmic, but linear up to 1, so that it shows step 0."""
    panel.set_xscale("symlog", linthresh=1, linscale=0.4)
    panel.set_xlim(-0.25, max(1, last) * 1.25)
    panel.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
    panel.xaxis.set_minor_locator(NullLocator())  # minor ticks would take half of the drawing time
    panel.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _thousands(step: float, position: int | None = None) -> str:
    """Return a step as 1, 10, 100, 1k, 10k, 100k, 1M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if step >= unit:
            return f"{step / unit:g}{name}"
    return f"{step:g}"


def step_label(table: pa.Table) -> str:
    """Return the label of the step axis, with the tokens per step if they are constant."""
    pairs = set(zip(table["step"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    rate = {tokens / step for step, tokens in pairs if step}
    return f"training step ({rate.pop():,.0f} tokens each)" if len(rate) == 1 and max(rate) > 0 else "training step"
