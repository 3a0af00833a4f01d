"""What all figures have in common: names of files and sites, colors, the axis of steps."""

import re
from collections.abc import Container, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from dissimilarity.capture.site_names import split_layer

GROUP_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of groups that color-blind readers can tell apart (Okabe & Ito 2008)."""
MARKED_POINTS = 24
"""Points of a curve that have marks; a curve with more is a line."""


def file_name(parts: list[str], taken: Container[str]) -> str:
    """Return a file name that is not taken, with characters that every file system allows.

    Examples:
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

    Examples:
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
    """Return at most `limit` of the items, evenly spaced, including the first and the last; of a limit of 1, the last.

    Examples:
        >>> spread([0, 1, 2, 3, 4, 5, 6], 3), spread([0, 1, 2], 1)
        ([0, 3, 6], [2])
    """
    if len(items) <= limit:
        return items
    if limit == 1:
        return items[-1:]
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def name_layers(axis: Axis, names: Sequence[str]) -> None:
    """Label the ticks of an axis on which layers are 0, 1, 2, ... with their names, thinned if there are many."""
    shown = spread(list(enumerate(names)), 12)
    axis.set_ticks([place for place, _ in shown], [name for _, name in shown])


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
