"""Folders with known content for the pages of reports, and the pages as a browser would read them."""

import json
import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dissimilarity.report.page import write_page
from dissimilarity.tables.curves import INTRINSIC, Curves
from dissimilarity.tables.journal import Journal

SITES = ("blocks.0.resid_post", "blocks.1.resid_post")
STEPS = (0, 1, 2, 4, 8)
HEATMAPS = (0, 4, 8)


def curve_row(step: int, site_a: str, site_b: str, **changes: Any) -> dict[str, Any]:
    """Return a row whose value depends on all of its names, with a null at heat maps."""
    names = {"reference": "init", "measure": "cka", **changes}
    seed = sum(map(ord, names["reference"] + names["measure"] + site_a + site_b)) % 97
    value = 1 - math.tanh((step + 0.01 * seed) / 7)
    null = {"null": 0.031234567, "calibrated": value - 0.03} if step in HEATMAPS else {}
    numbers = {"value": value, "dissimilarity": 1 - value, "stderr": 0.01 + 0.001 * step, "n_units": 16}
    row = {"step": step, "tokens": 8 * step, "site_a": site_a, "site_b": site_b, "n_samples": 64, "seconds": 0.5}
    return {**row, **numbers, **null, **names}


def curve_rows(references: Sequence[str] = ("init",), measures: Sequence[str] = ("cka",)) -> list[dict[str, Any]]:
    """Return the rows of a run: all pairs of sites at heat maps, those of equal depth between them."""
    return [
        curve_row(step, a, b, reference=reference, measure=measure)
        for step in STEPS
        for reference in references
        for measure in measures
        for a in SITES
        for b in SITES
        if a == b or step in HEATMAPS
    ]


def write_run(folder: Path, rows: Sequence[dict[str, Any]] | None = None, seed: int = 0, **config: Any) -> Path:
    """Write the folder of a finished run, and return it."""
    folder.mkdir(parents=True)
    curves = Curves(folder)
    curves.append(curve_rows() if rows is None else rows)
    curves.fold()
    Journal(folder / "metrics.jsonl").append({"step": step, "train/loss": 5 - step / 4} for step in STEPS[1:])
    model = {"of": "model", "measure": "rankme", "n_units": 16, "stderr": 0.1, "reference": "init"}
    Journal(folder / INTRINSIC).append(
        {"step": step, "site": site, "value": 9.0 - step, **model} for step in HEATMAPS for site in SITES
    )
    summary = {"status": "finished", "run": folder.name, "steps": 8, "val_loss": 4.5, "seconds": 3.2}
    (folder / "summary.json").write_text(json.dumps(summary))
    start = {"command": f"python train.py seed={seed}", "folder": "/home/me"}
    (folder / "provenance.json").write_text(json.dumps({"parameters": 1234, "starts": [start]}))
    settings = {"width": 16, "depth": 2, "seed": seed, "model": {"family": "gelu"}, "data": {"seed": seed}, **config}
    (folder / "config.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML, too
    return folder


class Page(HTMLParser):
    """A page: its scripts, its data by id, its text, and every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the start of an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Take the text of an element."""
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[str(attributes["id"])] = json.loads(data)
            self.elements.append(("", {}))
        elif tag == "script":
            self.scripts.append(data)
            self.elements.append(("", {}))
        elif tag != "style":
            self.text += data

    @property
    def policy(self) -> str:
        """Return the content security policy."""
        (policy,) = (str(found["content"]) for tag, found in self.elements if found.get("http-equiv"))
        return policy


def page_of(*folders: Path) -> Page:
    """Write the page of folders beside the first one, and read it."""
    return Page(write_page(folders, folders[0].parent / "page.html").read_text(encoding="utf-8"))
