"""Figures of the study `curves`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dissimilarity.figures.figure import in_style
from dissimilarity.figures.layout import Frame, Legend, make_panels
from dissimilarity.figures.style import GROUP_COLORS, colors_of, file_name, spread, style_step_axis
from dissimilarity.inference.coverage import FEWEST_MODELS, SEEDS
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.report.folders import Folder
from dissimilarity.report.groups import groups_of, mean_curves
from dissimilarity.report.panels import Panel, panels_of

PANEL, ACROSS = (2.3, 1.7), 3
"""Inches of a panel, and how many of them stand side by side."""
NAMED = 12
"""Groups that a legend names, evenly spaced among all."""

Runs = list[tuple[str, Panel]]
"""The group and the panel of each run."""


def figures(folders: Sequence[Folder]) -> dict[str, Figure]:
    """Return one figure per reference by file name."""
    panels = [{} if folder.curves is None else panels_of(folder.curves) for folder in folders]
    groups = groups_of(folders)
    keys = dict.fromkeys(key for by_key in panels for key in by_key)
    names = list(dict.fromkeys(groups))
    colors = dict(zip(names, GROUP_COLORS, strict=False)) if len(names) <= len(GROUP_COLORS) else colors_of(names)
    drawn: dict[str, Figure] = {}
    for reference in dict.fromkeys(reference for reference, _ in keys):
        measures = {
            measure: [(group, by_key[key]) for group, by_key in zip(groups, panels, strict=True) if key in by_key]
            for key in keys
            for measure in key[1:]
            if key[0] == reference
        }
        drawn[file_name(["curves", reference], drawn)] = _figure(reference, measures, colors)
    return drawn


@in_style()
def _figure(reference: str, measures: dict[str, Runs], colors: Mapping[str, Any]) -> Figure:
    """Draw one reference: one panel per measure."""
    present = [name for name in colors if any(group == name for runs in measures.values() for group, _ in runs)]
    entries = [(name, Line2D([], [], color=colors[name])) for name in spread(present, NAMED)]
    notes = ["One line per run, at its last site; thick: the mean of runs that differ in their seeds alone."]
    largest = max(Counter(group for group, _ in runs).most_common(1)[0][1] for runs in measures.values())
    notes += [SEEDS] * (largest >= FEWEST_MODELS)
    around = {"left": 0.6, "across": 0.75, "between": 0.6}
    frame = Frame(**around, title=f"vs {reference}", notes=notes, legends=[Legend("runs", entries)])
    rows, columns = -(-len(measures) // ACROSS), min(ACROSS, len(measures))
    figure, axes = make_panels(rows, columns, PANEL, frame)
    for panel in axes.flat[len(measures) :]:
        panel.remove()
    for panel, (measure, runs) in zip(axes.flat, measures.items(), strict=False):
        for group in present:
            members = [run for name, run in runs if name == group]
            if members:
                _draw(panel, members, colors[group])
        panel.set_ylabel(f"{dissimilarity_title(measure)}\n(0 = same)")
        panel.set_xlabel("training step")
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
        style_step_axis(panel, max(step for _, run in runs for step in run["steps"]))
    return figure


def _draw(panel: Axes, members: Sequence[Panel], color: str) -> None:
    """Draw the runs of a group and, if there are several, their mean with its interval from five runs on."""
    alone = len(members) == 1
    for run in members:
        panel.plot(run["steps"], _floats(run["curves"][-1]["d"]), color=color, linewidth=1.2 if alone else 0.5)
    means = [] if alone else mean_curves(members)
    if means:
        mean, half = _floats(means[-1]["d"]), np.nan_to_num(_floats(means[-1]["h"]))
        panel.plot(means[-1]["steps"], mean, color=color, linewidth=1.6)
        panel.fill_between(means[-1]["steps"], mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)
