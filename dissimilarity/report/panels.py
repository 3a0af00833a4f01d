"""Columns of short numbers that a page draws, from tables: curves and heat maps."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.figures.maps import Scale, color_limits
from dissimilarity.inference.jackknife import half_width
from dissimilarity.tables.curves import distinct, scale, select

Panel = dict[str, Any]
"""Everything of one reference and one measure; its keys are one letter, because pages hold thousands of them."""


def panels_of(table: pa.Table, colors: Scale = "null") -> dict[tuple[str, str], Panel]:
    """Return the panel of each (reference, measure) of a curves table.

    Args:
        table: records of the curves schema; the column `influence` is not needed.
        colors: what the colors of maps run over, as the scale of `heatmap_figure`.

    Returns:
        Panels with `steps`, `curves` (pairs of sites at equal relative depth) and `maps` (all pairs, at the `steps`
        that have them; None without such a step). Each curve has the `site` of the model, `b` of the reference, and a
        list per column, along `steps`: `d` (dissimilarity), `h` (half of its 95% interval), `n` (null, as a
        dissimilarity) and `c` (calibrated). A map has these lists per step, row by row of sites `a` by sites `b`, and
        `limits`, the values at the two ends of the colors of all steps. What is missing is None.

    Examples:
        >>> at = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed"}
        >>> values = {"dissimilarity": 0.1, "value": 0.9, "stderr": 0.01, "n_units": 16, "null": 0.2, "calibrated": 0.9}
        >>> panels_of(pa.Table.from_pylist([{"step": 4, **at, **values}]))["init", "cka"]["curves"]
        [{'site': 'embed', 'b': 'embed', 'd': [0.1], 'h': [0.021314], 'n': [0.8], 'c': [0.9]}]
    """
    panels = {}
    for measure in distinct(table, "measure"):
        records = select(table, measure=measure)
        slope, offset = scale(records)
        for reference in distinct(records, "reference"):
            rows = select(records, reference=reference)
            panels[reference, measure] = _panel(rows, slope, offset, colors)
    return panels


def short(values: Iterable[float]) -> list[float | None]:
    """Return numbers to 5 significant digits, None for those that are not finite.

    Examples:
        >>> short([0.123456789, float("nan"), 2e-9])
        [0.12346, None, 2e-09]
    """
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def _panel(rows: pa.Table, slope: float, offset: float, colors: Scale) -> Panel:
    """Return the panel of one reference and one measure."""
    steps, at_step = np.unique(rows["step"].to_numpy(), return_inverse=True)
    sites_a, sites_b = distinct(rows, "site_a"), distinct(rows, "site_b")
    # A dictionary has its entries in the order of their first appearance, as `distinct`.
    at_a, at_b = (rows[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("site_a", "site_b"))
    columns = {
        "d": rows["dissimilarity"].to_numpy(),
        "h": half_width(rows["stderr"].to_numpy(), rows["n_units"].to_numpy()),
        "n": offset + slope * rows["null"].to_numpy(),
        "c": rows["calibrated"].to_numpy(),
    }
    cubes = {name: np.full((len(sites_a), len(sites_b), len(steps)), math.nan) for name in columns}
    for name, cube in cubes.items():
        cube[at_a, at_b, at_step] = columns[name]
    curves = []
    for a, b in matched_pairs(sites_a, sites_b):
        lines = {name: short(cube[sites_a.index(a), sites_b.index(b)]) for name, cube in cubes.items()}
        curves.append({"site": a, "b": b, **lines})
    rows_at = np.bincount(at_step, minlength=len(steps))
    full = np.flatnonzero(rows_at == len(sites_a) * len(sites_b))
    panel = {"steps": steps.tolist(), "curves": curves, "maps": None}
    if len(full) and len(sites_a) * len(sites_b) > 1:
        panel["maps"] = {"steps": steps[full].tolist(), "a": sites_a, "b": sites_b, **_maps(cubes, full)}
        nulls = cubes["n"][:, :, full[-1]]
        marks = [float(np.nanmean(nulls))] if np.isfinite(nulls).any() else []
        panel["maps"]["limits"] = short(color_limits([cubes["d"][:, :, full]], 0.0, False, marks, colors))
    return panel


def _maps(cubes: dict[str, NDArray[np.float64]], steps: NDArray[np.int64]) -> dict[str, list[list[float | None]]]:
    """Return each column at some steps, row by row of the sites."""
    return {name: [short(cube[:, :, step].ravel()) for step in steps] for name, cube in cubes.items()}
