"""The table of the study `scaling` as layer x layer arrays, one cell per control, measure and two models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import LOGITS
from studies.scaling.sizes import SizedModel

SCALES = {"dissimilarity": "dissimilarity", "relative": "1 - calibrated"}
"""Readings of a pair of layers: the measure's own, and 1 - calibrated (0 = same, 1 = as far as the null)."""
Cells = Mapping[tuple[str, str, str, str], Mapping[str, Any]]
"""(control, measure, model_a, model_b) -> its sites and its layer x layer arrays."""


def cells_of(table: pa.Table) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the cells of a table: sites, matched layers, and arrays of `dissimilarity`, `relative` and `null`."""
    records: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for record in table.to_pylist():
        if record["site_a"] != LOGITS:
            key = (record["control"], record["measure"], record["model_a"], record["model_b"])
            records.setdefault(key, []).append(record)
    return {key: _cell(members) for key, members in records.items()}


def _cell(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sites_a, sites_b = (list(dict.fromkeys(record[side] for record in records)) for side in ("site_a", "site_b"))
    arrays = {name: np.full((len(sites_a), len(sites_b)), np.nan) for name in (*SCALES, "null")}
    for record in records:
        place = sites_a.index(record["site_a"]), sites_b.index(record["site_b"])
        relative = 1 - record["calibrated"]
        arrays["dissimilarity"][place] = record["dissimilarity"]
        arrays["relative"][place] = relative
        # The dissimilarity of every measure is linear in its value, so this is the dissimilarity of the null.
        arrays["null"][place] = record["dissimilarity"] / relative if record["calibrated"] != 1 else math.nan
    matched = [(sites_a.index(a), sites_b.index(b)) for a, b in matched_pairs(sites_a, sites_b)]
    return {"sites_a": sites_a, "sites_b": sites_b, "matched": matched, **arrays}


def mean_over(
    cell: Mapping[str, Any],
    scale: str,
    region: str,
    couple: tuple[str, str],
    regions: Mapping[str, Mapping[str, range]],
) -> float:
    """Return the mean over matched layers, or over a region of both models.

    Args:
        cell: cell of the two models.
        scale: one of `SCALES`.
        region: `all` for the matched layers, else a region's name.
        couple: labels of the two models.
        regions: label -> region -> its layers.
    """
    values = cell[scale]
    if region == "all":
        return float(np.mean([values[place] for place in cell["matched"]]))
    first, second = (regions[label].get(region) for label in couple)
    if first is None or second is None:
        return math.nan
    return float(values[first.start : first.stop, second.start : second.stop].mean())


def mean_maps(
    cells: Cells, sizes: Mapping[str, Sequence[SizedModel]]
) -> tuple[dict[tuple[str, str, str, str], np.ndarray], dict[tuple[str, str, str], np.ndarray]]:
    """Return mean heat maps over the pairs of models of every two sizes, and over the seeds of each size.

    A size with itself in the first is the mean over its models with themselves.
    """
    size_of = {model.label: name for name, members in sizes.items() for model in members}
    arrays: dict[tuple[str, ...], list[np.ndarray]] = {}
    order = list(sizes)
    for (control, measure, a, b), cell in cells.items():
        first, second, values = size_of[a], size_of[b], cell["dissimilarity"]
        if order.index(first) > order.index(second):
            first, second, values = second, first, values.T
        arrays.setdefault((control, measure, first, second, "self" if a == b else "pair"), []).append(values)
        if first == second and a != b:  # the two seeds have no order
            arrays[control, measure, first, second, "pair"].append(values.T)
    maps, floors = {}, {}
    for (control, measure, first, second, kind), members in arrays.items():
        mean = np.mean(members, 0)
        if first != second or kind == "self":
            maps[control, measure, first, second] = mean
        else:
            floors[control, measure, first] = mean
    return maps, floors


def mean_null(cells: Cells, control: str, measure: str) -> float:
    """Return the mean dissimilarity of the null over all pairs of layers of different models."""
    arrays = [cell["null"].ravel() for (c, m, a, b), cell in cells.items() if (c, m) == (control, measure) and a != b]
    values = np.concatenate(arrays) if arrays else np.array([np.nan])
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
