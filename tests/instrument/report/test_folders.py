"""Whatever a folder holds, its page says what it is; no page is blank."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from dissimilarity.figures.figure import write_figure
from dissimilarity.report.folders import found_in
from dissimilarity.tables.curves import TABLE, Curves
from tests.helpers.report_folders import SITES, curve_row, page_of, write_run


def without_curves(folder: Path) -> None:
    for name in ("curves.parquet", "curves.jsonl"):
        (folder / name).unlink()


def of_another_version(folder: Path) -> None:
    (folder / "curves.jsonl").unlink()
    pq.write_table(pa.table({"step": [1], "distance": [0.5]}), folder / TABLE)


def with_damage(folder: Path) -> None:
    journal = folder / "curves.jsonl"
    (folder / TABLE).unlink()
    journal.write_bytes(journal.read_bytes().replace(b"cka", b"ckb", 1))


def without_rows(folder: Path) -> None:
    without_curves(folder)
    Curves(folder).fold()


def with_broken_json(folder: Path) -> None:
    (folder / "summary.json").write_text("{")
    (folder / "provenance.json").write_text('{"starts": 3, "git": [], "packages": "x", "parameters": "many"}')
    (folder / "config.yaml").write_text("a: &x 1\nb: *x\n")
    (folder / "metrics.jsonl").write_text("not a row\n")


def with_a_metric_of_no_step(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1, "val/loss": 2.0}\n{"val/loss": 3.0}\n')


def with_an_empty_metric(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1, "val/loss": null}\n')


def with_strange_values(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps({"status": 3, "steps": None, "val_loss": "low", "seconds": True}))
    (folder / "provenance.json").write_text(json.dumps({"starts": [], "start": 4, "command": None}))


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (without_curves, ["finished at step 8", "loss"]),
        (of_another_version, ["is no curves table: expected columns", "'distance'"]),
        (with_damage, ["line 1 is damaged"]),
        (with_a_metric_of_no_step, ["row 2: expected numbers for step and val/loss, found nothing and 3.0"]),
        (with_an_empty_metric, ["row 1: expected numbers for step and val/loss, found 1 and"]),
        (without_rows, ["finished at step 8"]),
        (
            with_broken_json,
            [
                "unknown state at step 8",
                "summary.json: it is damaged",
                "anchor",
                "metrics.jsonl, line 1 is damaged",
                "cka",
            ],
        ),
        (with_strange_values, ["a", "cka"]),
    ],
)
def test_a_damaged_run_is_shown_for_what_it_is(
    damage: Callable[[Path], None], texts: list[str], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a")
    damage(folder)
    for page in (page_of(folder), page_of(folder, write_run(tmp_path / "b"))):
        text = " ".join(page.text.split())
        assert "a" in text and len(page.scripts) == 4
    text = " ".join(page_of(folder).text.split())
    assert all(part in text for part in texts), text[:2000]


def test_a_folder_that_is_no_run_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.txt").touch()
    page = page_of(tmp_path / "holiday")
    assert "no run and no results" in page.text and "found beach.txt" in page.text


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "compare"
    folder.mkdir()
    rows = [{**curve_row(0, site, site), "influence": [0.5], "model_a": "<i>", "p_best": math.nan} for site in SITES]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    (folder / "summary.md").write_text(
        "# Found\n\n| a | b |\n| --- | --- |\n| <img src=x> | 0.5 |\n\n![x](http://x/y.png)\n"
    )
    (folder / "provenance.json").write_text(json.dumps({"start": {"command": "python analyze.py study=compare"}}))
    with mpl.rc_context({"figure.dpi": 20}):
        write_figure(Figure(), folder / "figures", "heatmap", ["png", "pdf"])
        write_figure(Figure(), folder / "figures", "tree", ["svg"])
    (folder / "figures" / "secret.png").write_text("a key")
    return folder


def test_results_have_their_summary_figures_and_table(results: Path) -> None:
    page = page_of(results)
    assert "results of python analyze.py study=compare" in page.text and "<img src=x>" in page.text
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [picture["alt"] for picture in pictures] == ["heatmap", "tree"]
    assert str(pictures[0]["src"]).startswith("data:image/png;base64,")
    assert str(pictures[1]["src"]).startswith("data:image/svg+xml;base64,")
    # 6.4 inches at 96 pixels each, however many pixels the file has
    assert int(str(pictures[0]["width"])) == pytest.approx(6.4 * 96, abs=1) and "width" not in pictures[1]
    assert "h1" in {tag for tag, _ in page.elements} and SITES[1] in page.text
    assert "influence" not in page.text and "p_best" not in page.text and "<i>" in page.text


def test_a_folder_of_runs_stands_for_them(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs" / name) for name in ("b", "a")]
    (tmp_path / "runs" / "notes").mkdir()
    assert found_in([tmp_path / "runs"]) == sorted(runs)
    assert found_in([runs[0], runs[0]]) == [runs[0]]
    for missing, text in ((tmp_path / "nope", "does not exist"), (runs[0] / "config.yaml", "is a file")):
        with pytest.raises(ValueError, match=text):
            found_in([missing])
