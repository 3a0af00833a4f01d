"""The result of one measure at one pair of sites: its value with influences and null, or why it has none."""

import math
from typing import Any

import torch
from torch import Tensor

from dissimilarity.capture.site_names import site_name
from dissimilarity.comparison.missing import samples_of, without_error
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import SitePair
from dissimilarity.moments.side import Side

Result = dict[str, Any]
"""Result of a measure at a pair of sites: value, influence, nulls, null_influence, n_samples, note, forced: whether the
value is that of identical models in some directions whatever the data, and broken: the share of samples that the null
takes out of their sequences."""


def failed(measure: Measure, side: Side, site: str, note: str) -> Result:
    """Return the result of a measure that has no value at a pair of sites."""
    n, unknown = samples_of(measure, side, site), torch.full((side.n_units,), math.nan)
    nothing = {"influence": unknown, "nulls": unknown[:1], "null_influence": unknown}
    return {"value": math.nan, **nothing, "n_samples": n, "note": note, "forced": False, "broken": 0.0}


def outcome(
    measure: Measure,
    side: Side,
    pair: SitePair,
    value: float,
    influence: Tensor,
    null: float,
    null_influence: Tensor,
    broken: float,
) -> Result:
    """Return the result of a measure at a pair of sites, with the note for what it lacks.

    Args:
        measure: the measure.
        side: the first side.
        pair: the pair of sites.
        value: the value.
        influence: influences of the units on it.
        null: the null.
        null_influence: influences of the units on the null.
        broken: share of samples that the null takes out of their sequences.
    """
    n = samples_of(measure, side, pair[0])
    note = ""
    if math.isnan(value):
        note = f"{measure.label} is undefined at {site_name(*pair)} for {n} samples: pass more or longer sequences"
    elif missing := without_error(measure, side, influence):
        note = f"{measure.label} has no standard error: {missing}"
    nulls = torch.tensor([null], dtype=torch.float64)
    null_result = {"nulls": nulls, "null_influence": null_influence, "broken": broken}
    return {"value": value, "influence": influence, **null_result, "n_samples": n, "note": note, "forced": False}
