"""Quantities of a run by step, as the rows of figures: losses, the model alone, penalties, reference groups."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dissimilarity.capture.sites import split_layer
from dissimilarity.figures.intrinsic import NAMES
from dissimilarity.figures.style import without_layer
from dissimilarity.inference.drift import between
from dissimilarity.inference.jackknife import half_width
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.report.folders import Folder
from dissimilarity.report.panels import short

LOSS_POINTS = 1500

Rows = list[dict[str, Any]]
Record = Mapping[str, Any]


def losses(folder: Folder) -> Rows:
    """Return the losses of a run, every so-many-th step of long ones."""
    rows = []
    for name, (steps, values) in folder.losses.items():
        stride = -(-len(steps) // LOSS_POINTS)
        for step, value in zip(steps[::stride], short(values[::stride]), strict=True):
            rows.append({"series": name, "step": step, "d": value, "low": None, "high": None, "kind": "curve"})
    return rows


def intrinsic(folder: Folder) -> dict[str, Rows]:
    """Return the measures of the model and of each reference alone, by name."""
    figures: dict[str, Rows] = {}
    records = list(_whole(folder.intrinsic, "reference", "of", "site", "measure", "step", "value", "stderr", "n_units"))
    first = records[0]["reference"] if records else None
    labels = labels_of(list(dict.fromkeys(record["site"] for record in records)))
    alerts = alerts_by_place(folder)
    for record in records:
        of_model = record["of"] == "model"
        if of_model and record["reference"] != first:
            continue  # the model is the same beside every reference
        half = float(half_width(float(record["stderr"]), record["n_units"]))
        kind = {"kind": "curve" if of_model else "reference", "id": folder.name if of_model else record["reference"]}
        row = _row(labels[record["site"]], record["step"], float(record["value"]), half) | kind
        row["alert"] = alerts.get(("", record["measure"], record["site"], record["step"])) if of_model else None
        name = str(NAMES.get(record["measure"], record["measure"])).replace("\n", " ")
        figures.setdefault(name, []).append(row)
    return figures


def penalties(folder: Folder) -> dict[str, Rows]:
    """Return the stitching penalties by reference and fit: into the reference, and (dashed) from it."""
    figures: dict[str, Rows] = {}
    keys = ("step", "reference", "fit", "direction", "site_front", "value", "stderr", "sequences")
    records = list(_whole(folder.penalties, *keys))
    labels = labels_of(list(dict.fromkeys(record["site_front"] for record in records)))
    for record in records:
        reference, into = record["reference"], record["direction"] == "into"
        half = float(half_width(float(record["stderr"]), record["sequences"]))
        kind = {"kind": "curve", "id": folder.name} if into else {"kind": "reference", "id": f"from {reference}"}
        row = _row(labels[record["site_front"]], record["step"], float(record["value"]), half) | kind
        figures.setdefault(f"{record['fit']} stitch, {reference}, nats per token", []).append(row)
    return figures


def reference_groups(folder: Folder) -> dict[str, Rows]:
    """Return the mean dissimilarity to each group of references at the last site, by measure."""
    figures: dict[str, Rows] = {}
    keys = ("step", "group", "measure", "site", "dissimilarity", "low", "high")
    records = list(_whole(folder.reference_groups, *keys))
    last = {record["measure"]: record["site"] for record in records}
    groups = list(dict.fromkeys(record["group"] for record in records))
    differences = {between(first, second) for first in groups for second in groups}
    alerts = alerts_by_place(folder)
    for record in records:
        group, measure, site = (record[name] for name in ("group", "measure", "site"))
        if site != last[measure] or group in differences:
            continue
        numbers = dict(zip(("d", "low", "high"), short(float(record[key]) for key in keys[-3:]), strict=True))
        row = {"series": group, "step": record["step"], **numbers, "kind": "curve", "id": folder.name}
        row["alert"] = alerts.get((group, measure, site, record["step"]))
        figures.setdefault(f"{dissimilarity_title(measure)} at {labels_of([site])[site]}", []).append(row)
    return figures


def alerts_by_place(folder: Folder) -> dict[tuple[str, str, str, int], str]:
    """Return the texts of alerts by reference (or group), measure, site and step."""
    names = ("reference", "measure", "site", "step")
    alerts = _whole(folder.alerts, *names, "text")
    return {tuple(alert[name] for name in names): str(alert["text"]) for alert in alerts}


def labels_of(sites: Sequence[str]) -> dict[str, str]:
    """Return a short name of each site for legends: the block, with its kind if there are several.

    Examples:
        >>> labels_of(["blocks.0.resid_post", "ln_final"])
        {'blocks.0.resid_post': 'block 0', 'ln_final': 'ln_final'}
    """
    split = {site: split_layer(site) for site in sites}
    kinds = {kind for kind, layer in split.values() if layer is not None}
    names = {}
    for site, (kind, layer) in split.items():
        if layer is None or " ~ " in site:
            names[site] = site
        else:
            names[site] = f"block {layer}" if len(kinds) == 1 else f"block {layer} {without_layer(kind)}"
    return names


def _whole(records: Sequence[Record], *keys: str) -> Iterator[Record]:
    """Yield the records that have all keys, which those of another version may lack."""
    return (record for record in records if set(keys) <= set(record))


def _row(series: str, step: int, value: float, half: float) -> dict[str, Any]:
    """Return a row; the ends of an interval of unknown width are None."""
    numbers = dict(zip(("d", "low", "high"), short([value, value - half, value + half]), strict=True))
    return {"series": series, "step": step, **numbers}
