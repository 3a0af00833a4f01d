"""What a page shows of its folders: sections as HTML, and the data of the figures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dissimilarity.figures.options import FigureOptions
from dissimilarity.figures.style import GROUP_COLORS
from dissimilarity.inference.coverage import PROBE_TEXT, SAMPLES
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.report import sections
from dissimilarity.report.about import facts_of, row_of, state_of
from dissimilarity.report.folders import Folder
from dissimilarity.report.groups import groups_of, mean_curves
from dissimilarity.report.panels import Panel, panels_of
from dissimilarity.report.series import alerts_by_place, intrinsic, labels_of, losses, penalties, reference_groups
from dissimilarity.report.specs import specs
from dissimilarity.report.subtracted import subtracted
from dissimilarity.tables.final import final_values

COLUMN_TITLES = {
    "series": "curve",
    "d": "dissimilarity",
    "low": "low (95%)",
    "high": "high (95%)",
    "h": "± (95%)",
    "n": "null",
    "c": "calibrated",
    "a": "site of the model",
    "b": "site of the reference",
    "id": "of",
    "alert": "alert",
}
"""What the columns of the data are called where people read them."""


PAIRS = {"measure", "site_a", "site_b", "value", "dissimilarity", "stderr", "null", "calibrated", "n_units"}
"""Columns that the tables of all comparisons have."""


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        title: its title.
        sections: its HTML.
        blocks: its data, by the id of the element that holds it.
    """

    title: str
    sections: list[str]
    blocks: dict[str, Any]


def content_of(folders: Sequence[Folder], place: Path) -> Content:
    """Return what a page shows of its folders.

    Args:
        folders: what was read.
        place: the folder that the page is written into, from which links to other pages lead.
    """
    if len(folders) == 1:
        (folder,) = folders
        return _of_run(folder) if folder.kind == "run" else _of_results(folder)
    return _of_runs(folders, place)


def _of_run(folder: Folder) -> Content:
    """Return what a page shows of one run."""
    colors = colors_of(folder)
    panels = {} if folder.curves is None else panels_of(folder.curves, colors.scale)
    final = [] if folder.curves is None else final_values(folder.curves)
    data, blocks = _data("run", [folder], {key: [panel] for key, panel in panels.items()})
    series = {"intrinsic": intrinsic(folder), "penalties": penalties(folder), "drift": reference_groups(folder)}
    alerts = [[*place, text] for place, text in alerts_by_place(folder).items()]
    data |= {"losses": losses(folder), "series": series, "alerts": alerts}
    parts = [
        sections.head(folder.name, state_of(folder), facts_of(folder)),
        sections.problems(folder.problems),
        sections.notes(folder),
    ]
    if final:
        parts.append(sections.final_table(final))
    if panels or data["losses"]:
        parts.append(sections.choices(data))
        parts.append(sections.curves("Loss and dissimilarity" if data["losses"] else "Dissimilarity", sections.OF_ONE))
        parts.append(sections.heat_maps(colors.scale))
    else:
        parts.append(sections.nothing(folder))
    parts += [text for name, text in sections.SERIES.items() if series[name]]
    parts += [sections.alerts(folder.alerts), sections.provenance(folder), sections.downloads(folder), sections.foot()]
    return Content(folder.name, parts, {"page": data, **blocks})


def _of_results(folder: Folder) -> Content:
    """Return what a page shows of the results of a study or comparison, or of any other folder."""
    pairs, colors = pairs_of(folder), colors_of(folder)
    panels = {} if pairs is None else {key: [panel] for key, panel in panels_of(pairs, colors.scale).items()}
    data, blocks = _data("comparison" if panels else "results", [folder], panels)
    parts = [
        sections.head(folder.name, state_of(folder), facts_of(folder)),
        sections.problems(folder.problems),
        sections.answer(folder),
        *(
            [sections.choices(data), sections.curves("Layer by layer", f"{sections.OF_PAIRS} {coverage_of(folder)}")]
            if panels
            else []
        ),
        *([sections.heat_maps(colors.scale)] if panels else []),
        sections.figures(folder),
        subtracted(folder.summary),
        sections.colored_texts(folder),
        sections.details(folder),
        sections.results_table(folder),
        sections.provenance(folder) if folder.kind == "results" else sections.nothing(folder),
        sections.downloads(folder),
        sections.foot(),
    ]
    return Content(folder.name, parts, {"page": data, **blocks})


def colors_of(folder: Folder) -> FigureOptions:
    """Return the colors of heat maps that the config of a folder chooses, as for its figures."""
    figures = folder.config.get("figures")
    chosen = figures if isinstance(figures, dict) else {}
    return FigureOptions(
        scale="data" if chosen.get("scale") == "data" else "null",
        dark="different" if chosen.get("dark") == "different" else "same",
    )


def coverage_of(folder: Folder) -> str:
    """Return what the intervals of a comparison cover: a probe text, or where none was read, samples."""
    return SAMPLES if folder.provenance.get("probe") == {} else PROBE_TEXT


def pairs_of(folder: Folder) -> pa.Table | None:
    """Return the table of a comparison with its pairs of models as references; None for other tables.

    Other tables may have sites too, but several rows per pair of them.

    Pairs of a model with itself come last. Another outlier control or an earlier step makes a separate pair.
    """
    if folder.table is None or not set(folder.table.column_names) >= PAIRS:
        return None
    table = folder.table
    a, b = (folder.summary.get(name, name.upper()) for name in ("a", "b"))
    names = [f"{a} and {b}"] * table.num_rows
    if {"model_a", "model_b"} <= set(table.column_names):
        known = [name for name in ("model_a", "model_b", "control", "step") if name in table.column_names]
        rows = table.select(known).to_pylist()
        usual = {"control": rows[0].get("control"), "step": max(row.get("step") or 0 for row in rows)} if rows else {}
        order = sorted(range(len(rows)), key=lambda row: rows[row]["model_a"] == rows[row]["model_b"])
        table, names = table.take(order), [_pair_name(rows[row], usual) for row in order]
    columns = {name: table[name] for name in sorted(PAIRS)}
    pairs = pa.table({**columns, "reference": names, "step": pa.array([0] * table.num_rows, pa.int64())})
    kinds = pairs.group_by(["reference", "measure", "site_a", "site_b"]).aggregate([])
    return pairs if kinds.num_rows == pairs.num_rows else None


def _pair_name(row: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    other = [row["control"]] if row.get("control") != usual["control"] else []
    step = row.get("step") or 0
    other += [f"step {step:,}"] if step != usual["step"] else []
    name = f"{row['model_a']} and {row['model_b']}"
    return f"{name} ({', '.join(other)})" if other else name


def _of_runs(folders: Sequence[Folder], place: Path) -> Content:
    """Return what a page shows of several folders: the table of all, and the curves of the runs."""
    by_folder = [panels_of(folder.curves) if folder.curves is not None else {} for folder in folders]
    keys = dict.fromkeys(key for panels in by_folder for key in panels)
    panels = {key: [panels.get(key) for panels in by_folder] for key in keys}
    data, blocks = _data("runs", folders, panels)
    title = f"{len(folders)} {'runs' if all(folder.kind == 'run' for folder in folders) else 'folders'}"
    measure = next(iter(data["measures"]), None)
    rows = [row_of(folder, place, data["references"], measure) for folder in folders]
    parts = [
        sections.head(title, time.strftime("written %Y-%m-%d %H:%M"), {}),
        sections.problems([f"{folder.name}: {text}" for folder in folders for text in folder.problems]),
        sections.runs_table(rows, data["references"], measure),
    ]
    if panels:
        parts.append(sections.choices(data))
        parts.append(sections.curves("Dissimilarity", sections.OF_SEVERAL))
    parts += [sections.foot()]
    return Content(title, parts, {"page": data, **blocks})


def _data(
    kind: str, folders: Sequence[Folder], panels: Mapping[tuple[str, str], Sequence[Panel | None]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the data of a page, and a block per reference and measure, which a browser reads when it shows them."""
    references = list(dict.fromkeys(reference for reference, _ in panels))
    measures = list(dict.fromkeys(measure for _, measure in panels))
    present = [panel for row in panels.values() for panel in row if panel is not None]
    sites = list(dict.fromkeys(curve["site"] for panel in present for curve in panel["curves"]))
    groups = groups_of(folders) if kind == "runs" else [folder.name for folder in folders]
    blocks = {}
    for (reference, measure), row in panels.items():
        block: dict[str, Any] = {"runs": row, "means": {}}
        if kind == "runs":
            block["runs"] = [None if panel is None else _without_maps(panel) for panel in row]
            for group in dict.fromkeys(groups):
                members = [panel for panel, name in zip(row, groups, strict=True) if name == group and panel]
                if len(members) > 1:
                    block["means"][group] = mean_curves(members)
        blocks[f"panel-{references.index(reference)}-{measures.index(measure)}"] = block
    data = {
        **{"kind": kind, "runs": [folder.name for folder in folders], "groups": groups, "references": references},
        **{
            "measures": measures,
            "sites": sites,
            "labels": _labels(sites, present),
            "palette": GROUP_COLORS,
            "specs": specs(colors_of(folders[0]).dark),
        },
        **{
            "titles": [dissimilarity_title(measure) for measure in measures],
            "columns": COLUMN_TITLES,
            "losses": [],
            "series": {},
            "alerts": [],
        },
    }
    return data, blocks


def _without_maps(panel: Panel) -> Panel:
    curves = [{name: curve[name] for name in ("site", "d")} for curve in panel["curves"]]
    return {"steps": panel["steps"], "curves": curves}


def _labels(sites: Sequence[str], panels: Sequence[Panel]) -> dict[str, str]:
    """Return the short names of the sites of the model, and of those that only references have."""
    labels = labels_of(sites)
    for panel in panels:
        names = [*(panel["maps"] or {"a": [], "b": []})["a"], *(curve["b"] for curve in panel["curves"])]
        for axis in (names, (panel["maps"] or {"b": []})["b"]):
            new = labels_of(list(dict.fromkeys(axis)))
            labels = {**{site: site if name in labels.values() else name for site, name in new.items()}, **labels}
    return labels
