"""A page shows what the tables hold, runs its own scripts alone, and is replaced in one step."""

import base64
import hashlib
import json
import math
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from dissimilarity.figures.heatmaps import heatmap_figure
from dissimilarity.report.page import write_page
from dissimilarity.report.specs import COLUMNS, specs
from dissimilarity.tables.curves import Curves, read_curves
from tests.helpers.report_folders import HEATMAPS, SITES, STEPS, Page, curve_row, curve_rows, page_of, write_run

REFERENCES, MEASURES = ["init", "runs/b"], ["cka", "mutual_knn"]
NASTY = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'&<b>" + "x" * 200, "<!--"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "a", curve_rows(REFERENCES, MEASURES))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


def five(value: float) -> float:
    """Return a number to five digits."""
    return float(f"{value:.5g}")


def ends_of(maps: list[list[float]]) -> list[float]:
    """Return the smallest and the largest value of maps."""
    return [min(map(min, maps)), max(map(max, maps))]


@pytest.mark.parametrize("reference", range(2))
@pytest.mark.parametrize("measure", range(2))
def test_curves_and_heat_maps_are_those_of_the_table(page: Page, reference: int, measure: int) -> None:
    assert (page.data["page"]["references"], page.data["page"]["measures"]) == (REFERENCES, MEASURES)
    (panel,) = page.data[f"panel-{reference}-{measure}"]["runs"]
    names = {"reference": REFERENCES[reference], "measure": MEASURES[measure]}
    assert panel["steps"] == list(STEPS) and [curve["site"] for curve in panel["curves"]] == list(SITES)
    for curve in panel["curves"]:
        rows = [curve_row(step, curve["site"], curve["site"], **names) for step in STEPS]
        assert curve["d"] == [five(row["dissimilarity"]) for row in rows]
        assert curve["h"] == [five(stats.t.ppf(0.975, 15) * row["stderr"]) for row in rows]
        assert curve["n"] == [five(1 - row["null"]) if "null" in row else None for row in rows]
        assert curve["c"] == [five(row["calibrated"]) if "null" in row else None for row in rows]
    maps = panel["maps"]
    assert (maps["steps"], maps["a"], maps["b"]) == (list(HEATMAPS), list(SITES), list(SITES))
    for values, step in zip(maps["d"], HEATMAPS, strict=True):
        assert values == [five(curve_row(step, a, b, **names)["dissimilarity"]) for a in SITES for b in SITES]


@pytest.mark.parametrize(("scale", "dark", "words"), [(None, "same", "to the null"), ("data", "different", "values")])
def test_heat_maps_have_the_colors_of_the_figures(tmp_path: Path, scale: Any, dark: Any, words: str) -> None:
    rows = [row for row in curve_rows() if row["step"] in (0, HEATMAPS[-1])]
    folder = write_run(tmp_path / "a", rows, figures={"scale": scale, "dark": dark})
    page = page_of(folder)
    (panel,) = page.data["panel-0-0"]["runs"]
    figure = heatmap_figure(read_curves(folder), "a", scale=scale or "null", dark=dark)
    image = figure.axes[0].images[0]
    assert panel["maps"]["limits"] == [five(limit) for limit in image.get_clim()]
    assert panel["maps"]["limits"] == ([0, five(1 - 0.031234567)] if scale is None else ends_of(panel["maps"]["d"]))
    color = page.data["page"]["specs"]["maps"]["layer"][0]["encoding"]["color"]["scale"]
    assert color["reverse"] == image.get_cmap().name.endswith("_r") and f"{words}." in page.text


def test_the_page_says_what_the_run_is(page: Page) -> None:
    for text in ("finished at step 8", "gelu, width 16, depth 2", "1,234", "4.5000 nats", "python train.py seed=0"):
        assert text in page.text
    last = curve_row(8, SITES[1], SITES[1])
    half = stats.t.ppf(0.975, 15) * last["stderr"]
    for number in (last["value"], last["null"], last["calibrated"], last["dissimilarity"]):
        assert f"{number:.4g}" in page.text
    assert f"{last['value'] - half:.4g} to {last['value'] + half:.4g}" in page.text
    assert "95% intervals cover other text of this kind" in page.text
    losses = [(row["step"], row["d"]) for row in page.data["page"]["losses"]]
    assert losses == [(step, 5 - step / 4) for step in STEPS[1:]]
    (rankme,) = page.data["page"]["series"]["intrinsic"].values()
    assert [row["d"] for row in rankme if row["series"] == "block 0"] == [9.0, 5.0, 1.0]


def test_its_policy_allows_these_scripts_and_no_others(page: Page) -> None:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert len(hashes) == 4 and page.policy.startswith("default-src 'none'; script-src ")
    assert re.findall(r"'sha256-([^']+)'", page.policy) == hashes
    assert "unsafe-eval" not in page.policy and "http" not in page.policy
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert str(attributes.get(name, "data:")).startswith("data:"), (tag, attributes)
    assert len(page.source) < 1_000_000


def test_own_scripts_set_text_and_no_html() -> None:
    assets = files("dissimilarity.report") / "assets"
    for name in ("figures.js", "report.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", (assets / name).read_text()
        )


def test_figures_are_cut_only_where_a_line_says_so() -> None:
    script = (files("dissimilarity.report") / "assets" / "report.js").read_text()
    cuts = set(re.findall(r"(\w+)\.slice\(0, \w+\)", script))
    assert cuts == {"items", "place"}, "use firstOf(), which says how many are left out"
    cut = re.findall(r"firstOf\((\w+), (\d+), ", script)
    assert cut == [("all", "48"), ("panels", "48"), ("series", "60"), ("panels", "24")]


def test_ends_of_the_colors_have_three_digits() -> None:
    legend = specs()["maps"]["layer"][0]["encoding"]["color"]["legend"]
    assert legend["format"] == ".3~g"  # of d3: 1.511 is 1.51, 0.95 is 0.95, 2 is 2


def test_licenses_name_the_versions_that_are_there() -> None:
    assets = files("dissimilarity.report") / "assets"
    versions = re.findall(r"^  (vega\S*) +(\S+)", (assets / "LICENSES.txt").read_text(), re.MULTILINE)
    assert len(versions) == 3
    for name, version in versions:
        script = (assets / f"{name}.min.js").read_text()
        assert f'"{version}"' in script and "sourceMappingURL" not in script


def test_figures_draw_columns_that_there_are() -> None:
    def fields(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["field"]] if isinstance(node.get("field"), str) else []
            own += re.findall(r"datum\.(\w+)", str(node.get("filter", "")) + str(node.get("test", "")))
            return own + [field for value in node.values() for field in fields(value)]
        return [field for item in node for field in fields(item)] if isinstance(node, list) else []

    for name, spec in specs().items():
        assert set(fields(spec)) <= set(COLUMNS[name])
        json.dumps(spec, allow_nan=False)


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    rows = [
        curve_row(step, site, site, reference=name, measure=name, note=name)
        for step in STEPS
        for name in NASTY
        for site in (*SITES, name)
    ]
    folder = write_run(tmp_path / "a<b>'&\"", rows, name=NASTY[1])
    notes = {"starts": [{"command": NASTY[0]}], "packages": {NASTY[1]: NASTY[2]}, "git": NASTY[0]}
    (folder / "provenance.json").write_text(json.dumps(notes))
    (folder / "summary.json").write_text(json.dumps({"status": NASTY[0], "why": NASTY[1], "steps": NASTY[2]}))
    for page in (page_of(folder), page_of(folder, write_run(tmp_path / "b"))):
        assert not {"img", "b"} & {tag for tag, _ in page.elements} and len(page.scripts) == 4
        assert page.data["page"]["references"][:4] == NASTY
        assert all(name in page.text for name in NASTY) and folder.name in page.text
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_a_reader_sees_the_old_page_or_the_new_one(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    path, seen, replace = tmp_path / "report.html", [], os.replace
    write_page([run], path)
    old = path.read_text()

    def watched(source: Any, target: Any) -> None:
        seen.append((path.read_text(), Path(source).read_text().endswith("</html>\n")))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_page([run], path)
    assert seen == [(old, True)] and [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_values_that_are_missing_are_shown_as_missing(tmp_path: Path) -> None:
    missing = {"value": math.nan, "dissimilarity": math.nan, "stderr": math.nan, "note": "skipped: over budget"}
    rows = [row | (missing if row["step"] in (2, 8) else {}) for row in curve_rows()]
    (panel,) = (page := page_of(write_run(tmp_path / "a", rows))).data["panel-0-0"]["runs"]
    assert [value is None for value in panel["curves"][0]["d"]] == [False, False, True, False, True]
    assert (
        "1 notevs init, 2 steps from 2 to 8: skipped: over budget" in page.text
        and "NaN" not in page.source.split("<script>")[0]
    )


def test_a_growing_run_has_its_newest_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").unlink()
    Curves(folder).append([curve_row(9, site, site) for site in SITES])
    page = page_of(folder)
    assert page.data["panel-0-0"]["runs"][0]["steps"][-1] == 9
    assert "in progress or cut short at step 9" in page.text
