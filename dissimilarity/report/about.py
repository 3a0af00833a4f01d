"""What a folder is, in words and numbers."""

from collections.abc import Mapping, Sequence
from math import isfinite
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dissimilarity.report.elements import is_number
from dissimilarity.report.folders import Folder
from dissimilarity.tables.final import final_values

UNFINISHED = "in progress or cut short"
FACTS = (
    ("val_loss", "loss", "{:.4f} nats per token, validation"),
    ("bits_per_byte", "bits per byte", "{:.4f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("val_accuracy", "accuracy", "{:.1%} in distribution"),
    ("ood_accuracy", "elsewhere", "{:.1%} out of distribution"),
    ("seconds", "time", "{:,.0f} s"),
    ("tokens_per_second", "speed", "{:,.0f} tokens/s"),
    ("tracking_share", "tracking", "{:.1%} of the time"),
)
"""Keys of the summary of a run, their names and forms."""


def status_of(folder: Folder) -> str:
    """Return how a run ended, in a word or two."""
    if folder.summary or (folder.path / "summary.json").exists():
        return str(folder.summary.get("status", "unknown state"))
    return UNFINISHED


def state_of(folder: Folder) -> str:
    """Return what a folder holds; of a run, whether it is finished and at which step it is."""
    if folder.kind == "unknown":
        return "no run and no results"
    command = command_of(folder)
    if folder.kind == "results":
        return f"results of {command}" if command else "results"
    steps = folder.summary.get("steps", last_step(folder))
    at = f" at step {steps:,}" if isinstance(steps, int) else ""
    why = folder.summary.get("why")
    if not folder.summary:
        is_there = (folder.path / "summary.json").exists()
        why = "summary.json cannot be read" if is_there else "there is no summary.json yet"
    return f"{status_of(folder)}{at}" + (f": {why}" if why else "")


def facts_of(folder: Folder) -> dict[str, str]:
    """Return the facts of a folder that stand at the head of its page, by name."""
    summary, provenance = folder.summary, folder.provenance
    entries = {}
    if isinstance(model := folder.config.get("model"), dict) and "width" in folder.config:
        entries["model"] = f"{model.get('family')}, width {folder.config['width']}, depth {folder.config.get('depth')}"
    if is_number(parameters := provenance.get("parameters")):
        entries["parameters"] = f"{parameters:,}"
    numbers = {**summary, "val_loss": loss_of(folder)}
    known = {key: value for key, value in numbers.items() if is_number(value) and isfinite(value)}
    entries |= {name: form.format(known[key]) for key, name, form in FACTS if key in known}
    for key, name in (("verdict", "verdict"), ("measured_on", "measured on")):
        if isinstance(text := summary.get(key), str):
            entries[name] = text
    if isinstance(remarks := summary.get("notes"), list) and remarks:
        entries["notes"] = "; ".join(map(str, remarks))
    if isinstance(created := provenance.get("created"), str):
        entries["begun" if folder.kind == "run" else "written"] = created
    return entries


def origin_of(folder: Folder) -> dict[str, Any]:
    """Return where a folder comes from, by name; None for what is not known."""
    notes, start = folder.provenance, _start(folder)
    git = notes["git"] if isinstance(notes.get("git"), dict) else {}
    changed = " with uncommitted changes" if git.get("dirty") else ""
    packages = notes["packages"] if isinstance(notes.get("packages"), dict) else {}
    return {
        "folder": str(folder.path.absolute()),
        "typed in": start.get("folder"),
        "commit": f"{git['commit']}{changed}" if git.get("commit") else None,
        "starts": len(notes["starts"]) if isinstance(notes.get("starts"), list) else None,
        "Python": notes.get("python"),
        "machine": notes.get("platform"),
        "processor": notes.get("cpu"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }


def command_of(folder: Folder) -> str:
    """Return the command that made a folder; empty if it is not known."""
    return str(folder.provenance.get("command") or _start(folder).get("command") or "")


def row_of(folder: Folder, place: Path, references: Sequence[str], measure: str | None) -> list[Any]:
    """Return the row of a folder in the table of several.

    Args:
        folder: what was read.
        place: the folder of the page, from which the link to its own page leads.
        references: references of all folders.
        measure: the measure of the final distances.

    Returns:
        (name, link), state, step, loss, parameters, seconds, and the final distance to each reference at the last site.
    """
    page = folder.path / "report.html"
    link = quote(relpath(page, place)) if page.exists() else None
    rows = [] if folder.curves is None else final_values(folder.curves)
    final = {row["reference"]: row["curve"][-1] for row in rows if row["measure"] == measure}
    state = status_of(folder) if folder.kind == "run" else state_of(folder)
    numbers = [loss_of(folder), folder.provenance.get("parameters"), folder.summary.get("seconds")]
    known = [value if is_number(value) else None for value in numbers]
    return [(folder.name, link), str(state), last_step(folder), *known, *map(final.get, references)]


def loss_of(folder: Folder) -> Any:
    """Return the validation loss of a run: that of its summary, or without one the newest; None if there is none."""
    values = folder.losses.get("val/loss", ([], []))[1]
    return folder.summary.get("val_loss", values[-1] if values else None)


def last_step(folder: Folder) -> int | None:
    """Return the last step that a run has rows of."""
    steps = [] if folder.curves is None else folder.curves["step"].to_pylist()
    return max([*steps, *(step for at, _ in folder.losses.values() for step in at)], default=None)


def _start(folder: Folder) -> Mapping[str, Any]:
    """Return the first start of a run, or that of a study."""
    starts = folder.provenance.get("starts") or [folder.provenance.get("start")]
    return starts[0] if isinstance(starts, list) and isinstance(starts[0], dict) else {}
