"""Maps of pairs of sites: colored cells with their values, color bars, hatches, strips, names of sites."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from numpy.typing import NDArray

from dissimilarity.figures.layout import widest

Scale = Literal["null", "data"]
Dark = Literal["same", "different"]
Floats = NDArray[np.floating[Any]]

STRIP, SLIM, GAP = 0.19, 0.08, 0.03
"""Width in inches of a strip with values in it, of a strip without, and of the gap between strip and map."""
WRITTEN = 0.19
"""Inches of the smallest cell in which values are written."""
MARK = 0.2
"""Inches between two marks of a color bar."""
LAID_OUT = 0.6
"""Inches that a layout engine takes from a map for the labels around it."""
BAR = 1.1
"""Inches beside a map for its color bar, the mark of the null and the label."""
NO_NULL = "hatched: the 95% interval holds the null"
STRIPS = "strips: share of variance in the first principal component (PC1)"
MOST = 0.5
"""Share of the variance in one component above which values reflect little else, so that strips show it."""


@dataclass(frozen=True)
class Palette:
    """How the values of one measure become colors.

    Attributes:
        norm: value -> 0 to 1.
        colors: the colors of these, dark at one end.
        marks: values with a name that the color bar marks.
    """

    norm: Normalize
    colors: Any
    marks: dict[str, float]


def palette(
    maps: Sequence[Floats],
    same: float,
    falls: bool,
    marks: dict[str, float],
    scale: Scale = "null",
    dark: Dark = "same",
) -> Palette:
    """Return the colors of maps that share a color bar.

    Args:
        maps: the values.
        same: the value of identical representations.
        falls: whether values fall from there, as those of a similarity do.
        marks: values that the color bar marks, by name; not those that are NaN.
        scale: `null`: from the value of identical representations to the null, so that figures can be compared; `data`:
            from the smallest value to the largest, so that small differences can be seen.
        dark: what the dark end of the colors is.

    Raises:
        ValueError: another scale or direction.
    """
    for name, value, choices in (("scale", scale, Scale), ("dark", dark, Dark)):
        if value not in choices.__args__:
            raise ValueError(f"{name}: expected {' or '.join(choices.__args__)}, found {value!r}")
    marks = {name: value for name, value in marks.items() if math.isfinite(value)}
    low, high = color_limits(maps, same, falls, list(marks.values()), scale)
    marks = {name: value for name, value in marks.items() if low <= value <= high}
    is_dark_low = falls == (dark == "different")
    return Palette(Normalize(low, high), mpl.colormaps["viridis" if is_dark_low else "viridis_r"], marks)


def color_limits(
    maps: Sequence[Floats], same: float, falls: bool, marks: Sequence[float], scale: Scale = "null"
) -> tuple[float, float]:
    """Return the values at the two ends of the colors; arguments are those of `palette`, with finite marks.

    Examples:
        >>> maps = [np.array([[0.1, 0.2]])]
        >>> color_limits(maps, 0.0, False, [0.9]), color_limits(maps, 0.0, False, [0.9], "data")
        ((0.0, 0.9), (0.1, 0.2))
    """
    values = np.concatenate([np.ravel(values) for values in maps])
    values = values[np.isfinite(values)]
    if scale == "null" or not values.size:
        values = np.append(values, [same, *marks])
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:  # one value
        return (low - 1e-3, high) if falls else (low, high + 1e-3)
    return low, high


def draw_map(panel: Axes, values: Floats, colors: Palette, hatched: NDArray[np.bool_]) -> None:
    """Draw a map (site_a, site_b) from the lower left corner, with values in cells that fit them.

    Args:
        panel: where to draw.
        values: the values; NaN has no color.
        colors: their colors.
        hatched: the cells to hatch.
    """
    panel.imshow(values, origin="lower", cmap=colors.colors, norm=colors.norm, interpolation="nearest")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    cell = cell_of(panel, values.shape)
    if not np.isfinite(values).any():
        panel.text(0.5, 0.5, "no values", transform=panel.transAxes, ha="center", va="center", color="0.35")
    if hatched.any():
        corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
        squares: Any = corners + np.argwhere(hatched)[:, None, ::-1]
        line = "black" if _is_light(np.mean(colors.colors(colors.norm(values[hatched])), 0)) else "white"
        pattern = "//" if cell > WRITTEN else "/////"
        panel.add_collection(
            PolyCollection(squares, facecolors="none", edgecolors=line, hatch=pattern, linewidths=0, alpha=0.45),
            autolim=False,
        )
    if cell > WRITTEN:
        write_values(panel, values, colors.colors(colors.norm(values)), min(6.5, 24 * cell))


def inches_of(panel: Axes) -> Floats:
    """Return the width and height of a panel in inches, less what a layout engine is going to take for its labels."""
    figure, part = panel.get_figure(root=True), panel.get_figure(root=False)
    assert figure is not None and part is not None
    is_laid_out = figure.get_layout_engine() is not None
    size = np.array(panel.get_position(original=is_laid_out).size) * part.bbox.size / figure.dpi
    return np.maximum(size - LAID_OUT, size / 2) if is_laid_out else size


def cell_of(panel: Axes, shape: tuple[int, ...]) -> float:
    """Return the inches of a cell in a panel."""
    width, height = inches_of(panel)
    return float(min(width / shape[1], height / shape[0]))


def write_values(panel: Axes, values: Floats, colors: Floats, size: float) -> None:
    """Write the value into each cell, black on light colors and white on dark ones."""
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            text = f"{round(value, 2) + 0.0:.2f}" if abs(value) < 9.995 else f"{value:.3g}"
            text = text.replace("0.", ".", 1) if abs(value) < 0.995 else text
            color = "black" if _is_light(colors[row, column]) else "white"
            panel.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def _is_light(color: Floats) -> bool:
    return float(np.dot(color[:3], (0.299, 0.587, 0.114))) > 0.5


def draw_bar(figure: Figure, panel: Axes, colors: Palette, label: str, is_callers: bool) -> None:
    """Draw the color bar beside a map, as tall as it, with the marks of the null between them.

    Args:
        figure: the figure of the panel.
        panel: the map, or the last one of a row.
        colors: its colors.
        label: what the values are.
        is_callers: whether the axes are the caller's, which then give some of their space to the bar.
    """
    shown = ScalarMappable(colors.norm, colors.colors)
    if is_callers:
        bar = figure.colorbar(shown, ax=panel, fraction=0.06, pad=0.14)
    else:
        along: Any = panel.transAxes
        right = figure.dpi_scale_trans + ScaledTranslation(1, 0, along)
        place = blended_transform_factory(right, along)
        bar = figure.colorbar(shown, cax=panel.inset_axes((0.3, 0, 0.08, 1), transform=place))
    bar.locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    bar.update_ticks()
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    arrow = {"arrowstyle": "-|>", "mutation_scale": 5, "linewidth": 0.5, "color": "0.35", "shrinkA": 0, "shrinkB": 0}
    near: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "arrowprops": arrow}
    span = float(np.ptp(colors.norm.inverse(np.array([0.0, 1.0]))))
    for names, value in _apart(colors.marks, span * MARK / max(MARK, inches_of(panel)[1])):
        bar.ax.annotate(names, (0, value), (-7, 0), ha="right", va="center", fontsize=6, color="0.35", **near)


def _apart(marks: dict[str, float], least: float) -> list[tuple[str, float]]:
    """Return the marks of a bar with their values; those that would be printed over each other share one."""
    apart: list[tuple[str, float]] = []
    for name, value in sorted(marks.items(), key=lambda mark: mark[1]):
        if apart and value - apart[-1][1] < least:
            apart[-1] = f"{name}\n{apart[-1][0]}", apart[-1][1]
        else:
            apart.append((name, value))
    return apart


def margin(cell: float) -> float:
    """Return the width in inches of a strip beside a map, including its gap."""
    return GAP + (STRIP if cell > WRITTEN else SLIM)


def has_strips(*shares: Floats) -> bool:
    """Return whether a first principal component has so much of the variance that strips are drawn.

    Examples:
        >>> has_strips(np.array([0.2, 0.3])), has_strips(np.array([0.2]), np.array([0.6, math.nan]))
        (False, True)
    """
    return any(bool((values > MOST).any()) for values in shares)


def draw_shares(panel: Axes, shares_a: Floats, shares_b: Floats) -> None:
    """Draw strips beside and below a map: each site's share of variance in its first principal component, 1 = black.

    Args:
        panel: the map. Its site names move to make space for the strips.
        shares_a: shares of the sites on the vertical axis.
        shares_b: shares of the sites on the horizontal axis.
    """
    cell = cell_of(panel, (len(shares_a), len(shares_b)))
    strip, outside = margin(cell) - GAP, margin(cell)
    figure = panel.get_figure()
    assert figure is not None
    # Across: in inches from the corner of the map, whatever its size. Along: the whole length of the map.
    along: Any = panel.transAxes
    inches = figure.dpi_scale_trans + ScaledTranslation(0, 0, along)
    places = (
        ((-outside, 0, strip, 1), blended_transform_factory(inches, along), shares_a[:, None]),
        ((0, -outside, 1, strip), blended_transform_factory(along, inches), shares_b[None]),
    )
    gray = mpl.colormaps["Grays"]
    for bounds, transform, shares in places:
        beside = panel.inset_axes(bounds, transform=transform)
        beside.imshow(shares, origin="lower", cmap=gray, vmin=0, vmax=1, aspect="auto")
        beside.set_axis_off()
        if cell > WRITTEN:
            write_values(beside, shares, gray(shares), min(5.5, 24 * cell))
    if cell > WRITTEN:
        corner: Any = {"ha": "center", "va": "center", "fontsize": 4.5, "color": "0.35"}
        panel.text(strip / 2 - outside, strip / 2 - outside, "PC1", transform=inches, **corner)
    panel.tick_params(pad=72 * outside + 1.5)


def name_sites(panel: Axes, names_a: list[str], names_b: list[str]) -> None:
    """Label the ticks of a map with site names, as many as fit, evenly spaced, and rotate long names below it.

    Panels that share their axes have the ticks of any of them.
    """
    cell = cell_of(panel, (len(names_a), len(names_b)))
    for axis, names, spacing in (
        (panel.xaxis, names_b, 0.11 if is_upright(names_b) else 0.15),
        (panel.yaxis, names_a, 0.11),
    ):
        shown = range(0, len(names), math.ceil(spacing / cell))
        axis.set_ticks(shown, [names[index] for index in shown])


def is_upright(names: list[str]) -> bool:
    """Return whether names are too long to stand side by side below a map."""
    return max(map(len, names)) > 2


def space_for_names(names_a: list[str], names_b: list[str]) -> tuple[float, float]:
    """Return the inches that site names take beside and below a map."""
    return widest(names_a) + 0.08, (widest(names_b) if is_upright(names_b) else 0.1) + 0.08
