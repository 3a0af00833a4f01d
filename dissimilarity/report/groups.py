"""Runs that differ in their seeds alone, and the mean of their curves."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dissimilarity.inference.coverage import FEWEST_MODELS
from dissimilarity.inference.jackknife import half_width
from dissimilarity.report.folders import Folder
from dissimilarity.report.panels import Panel, short

TRAINING = ("width", "depth", "init_from", "task", "model", "data", "optim", "trainer")
"""Parts of a config that say how a run trains."""
SEEDS = {"seed", "init_seed", "data_seed"}
ELSEWHERE = {"cache_dir", "accelerator", "devices", "num_nodes", "strategy", "max_time", "profiler"}
"""Keys that change nothing that is computed."""


def groups_of(folders: Sequence[Folder]) -> list[str]:
    """Return the group of each run: a label that runs share which differ in their seeds alone.

    It is what their names begin with, or all of their names.

    A run without config.yaml belongs to the group of its name without `-s` and its seed.
    """
    keys = [_key(folder) for folder in folders]
    names: dict[str, list[str]] = {}
    for key, folder in zip(keys, folders, strict=True):
        names.setdefault(key, []).append(folder.name)
    labels: dict[str, str] = {}
    for key, members in names.items():
        label = members[0] if len(members) == 1 else re.sub(r"[-_.]*(s|seed)?[-_.=]*$", "", _start(members))
        if not label or (label in members and len(members) > 1):
            label = ", ".join(members) if len(members) < 4 else f"{members[0]} and {len(members) - 1} others"
        while label in labels.values():
            label += "'"
        labels[key] = label
    return [labels[key] for key in keys]


def mean_curves(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Return the mean over the runs of a group of each site that all of them have, at steps that most of them have.

    Args:
        panels: the panel of each run, of one reference and one measure.

    Returns:
        Curves with `site`, `steps`, `d` (mean dissimilarity) and `h` (half of its 95% interval over the runs; None for
        fewer than five).
    """
    by_site = [{curve["site"]: curve["d"] for curve in panel["curves"]} for panel in panels]
    steps = sorted({step for panel in panels for step in panel["steps"]})
    places = [[steps.index(step) for step in panel["steps"]] for panel in panels]
    curves = []
    for site in by_site[0]:
        if not all(site in sites for sites in by_site):
            continue
        values = np.full((len(panels), len(steps)), np.nan)
        for row, sites, at in zip(values, by_site, places, strict=True):
            row[at] = np.array(sites[site], dtype=float)
        values[~np.isfinite(values)] = np.nan
        most = 2 * np.isfinite(values).sum(0) > len(panels)
        values, at_steps = values[:, most], [step for step, is_shown in zip(steps, most, strict=True) if is_shown]
        counts = np.isfinite(values).sum(0)
        error = np.where(counts < FEWEST_MODELS, np.nan, np.nanstd(values, 0, ddof=1) / np.sqrt(counts))
        half = np.asarray(half_width(error, counts))
        curves.append({"site": site, "steps": at_steps, "d": short(np.nanmean(values, 0)), "h": short(half)})
    return curves


def _start(names: Sequence[str]) -> str:
    """Return what all names begin with."""
    length = 0
    while all(name[: length + 1] == names[0][: length + 1] for name in names) and length < len(names[0]):
        length += 1
    return names[0][:length]


def _key(folder: Folder) -> str:
    """Return a text that is equal for runs that differ in their seeds alone."""
    if not folder.config:
        return re.sub(r"[-_]s(eed)?=?\d+", "", folder.name)
    trained = {key: _computed(folder.config.get(key)) for key in TRAINING}
    return json.dumps(trained, sort_keys=True, default=str)


def _computed(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _computed(value) for key, value in node.items() if key not in SEEDS | ELSEWHERE}
    return node
