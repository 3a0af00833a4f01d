"""Runs that differ in their seeds alone are one group; its mean and interval are those of the runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dissimilarity.report.folders import read_folder
from dissimilarity.report.groups import groups_of, mean_curves
from dissimilarity.report.panels import panels_of
from tests.helpers.report_folders import SITES, STEPS, Page, curve_row, page_of, write_run


def runs(folder: Path, count: int, name: str = "gelu-w16-d2-s{}") -> list[Path]:
    return [
        write_run(
            folder / name.format(seed),
            [curve_row(step, site, site, dissimilarity=0.1 * step + seed**2 / 50) for step in STEPS for site in SITES],
            seed=seed,
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize("count", [2, 6])
def test_the_mean_of_a_group_and_its_interval(tmp_path: Path, count: int) -> None:
    folders = [read_folder(path) for path in runs(tmp_path, count)]
    panels = [panels_of(folder.curves)["init", "cka"] for folder in folders if folder.curves is not None]
    first = mean_curves(panels)[0]
    values = np.array([[0.1 * step + seed**2 / 50 for step in STEPS] for seed in range(count)])
    np.testing.assert_allclose(first["d"], values.mean(0), rtol=1e-4)
    if count < 5:
        assert first["h"] == [None] * len(STEPS)
    else:
        half = stats.t.interval(0.95, count - 1, 0, stats.sem(values))[1]
        np.testing.assert_allclose(first["h"], half, rtol=1e-4)


def test_a_run_that_has_just_begun_leaves_the_mean_of_the_others(tmp_path: Path) -> None:
    rows = [curve_row(0, site, site, dissimilarity=0.5) for site in SITES]
    begun = write_run(tmp_path / "gelu-w16-d2-s5", rows, seed=5)
    folders = [read_folder(path) for path in [*runs(tmp_path, 5), begun]]
    panels = [panels_of(folder.curves)["init", "cka"] for folder in folders if folder.curves is not None]
    first = mean_curves(panels)[0]
    values = np.array([[0.1 * step + seed**2 / 50 for step in STEPS] for seed in range(5)])
    np.testing.assert_allclose(first["d"], [(values[:, 0].sum() + 0.5) / 6, *values[:, 1:].mean(0)], rtol=1e-4)
    assert first["steps"] == list(STEPS) and None not in first["h"]


def test_only_steps_of_most_runs_are_averaged(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [curve_row(step, SITES[0], SITES[0]) for step in (0, 4, 8)])
    b = write_run(tmp_path / "b", [curve_row(step, SITES[0], SITES[0]) for step in (0, 1, 8)])
    panels = [panels_of(folder.curves)["init", "cka"] for folder in map(read_folder, (a, b)) if folder.curves]
    (curve,) = mean_curves(panels)
    assert curve["steps"] == [0, 8]


def test_groups_differ_in_more_than_seeds(tmp_path: Path) -> None:
    wide = write_run(tmp_path / "wide", width=32)
    folders = [*runs(tmp_path, 3), wide]
    assert groups_of([read_folder(path) for path in folders]) == [*["gelu-w16-d2"] * 3, "wide"]
    for path in folders:
        (path / "config.yaml").unlink()
    assert groups_of([read_folder(path) for path in folders]) == [*["gelu-w16-d2"] * 3, "wide"]


def test_runs_whose_names_share_no_beginning_are_labeled_by_all_of_them(tmp_path: Path) -> None:
    folders = [read_folder(write_run(tmp_path / name, seed=seed)) for seed, name in enumerate(("b", "ax", "c", "a"))]
    assert groups_of(folders[:2]) == ["b, ax"] * 2
    assert groups_of(folders) == ["b and 3 others"] * 4
    assert groups_of([folders[1], folders[3]]) == ["ax, a"] * 2, "not the name of one of them"


def test_equal_names_of_groups_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(width) / "a", width=width) for width in (16, 32)]
    assert len(set(groups_of([read_folder(path) for path in folders]))) == 2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("sweep")
    paths = runs(folder, 5)
    (paths[0] / "report.html").touch()
    (paths[1] / "summary.json").write_text(
        json.dumps({"status": "diverged", "why": "a loss is not finite", "steps": 4})
    )
    return page_of(*paths, write_run(folder / "other", width=32))


def test_the_page_of_several_runs(page: Page) -> None:
    data = page.data["page"]
    assert data["groups"] == [*["gelu-w16-d2"] * 5, "other"] and data["kind"] == "runs"
    block = page.data["panel-0-0"]
    assert len(block["runs"]) == 6 and list(block["means"]) == ["gelu-w16-d2"]
    assert block["runs"][3]["curves"][1]["d"] == [float(f"{0.1 * step + 9 / 50:.5g}") for step in STEPS]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["gelu-w16-d2-s0/report.html"]
    assert "diverged" in page.text and "95% intervals cover other seeds" in page.text
