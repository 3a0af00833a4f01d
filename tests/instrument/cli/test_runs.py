"""`dissimilarity list` and `watch`: what the files of runs say, finished or not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dissimilarity.cli import runs
from dissimilarity.cli.command import main
from dissimilarity.report.about import facts_of, row_of
from dissimilarity.report.folders import read_folder
from dissimilarity.tables.journal import Journal
from tests.helpers.report_folders import curve_rows, write_run


def lines_of(table: Any, width: int) -> list[str]:
    """Return the lines of a table in a terminal of some width."""
    with (console := Console(width=width)).capture() as capture:
        console.print(table, crop=False)
    return capture.get().splitlines()


def shown(table: Any) -> list[str]:
    """Return the lines of a table as a wide terminal shows them."""
    return [" ".join(line.split()) for line in lines_of(table, 200)]


def test_runs_are_listed_with_where_they_ended(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name) for name in ("a", "[b]")]
    (folders[1] / "summary.json").unlink()
    lines = shown(runs.list_of([read_folder(folder) for folder in folders]))
    assert lines[0] == "run state steps val loss init minutes"
    assert lines[1].startswith("a finished 8 4.500") and lines[2].startswith("[b] in progress or cut short 8")
    end = read_folder(folders[0]).curves
    assert end is not None
    (last,) = [
        row
        for row in end.to_pylist()
        if (row["step"], row["site_a"], row["site_b"]) == (8, "blocks.1.resid_post", "blocks.1.resid_post")
    ]
    assert f" {last['value']:.3f} ± " in lines[1]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 30])
def test_names_and_values_are_whole_in_any_terminal(tmp_path: Path, width: int) -> None:
    names = [f"solu-w64-d2-s{seed}-lr_matrices0.0146" for seed in range(2)]
    folders = [write_run(tmp_path / name, curve_rows(["init", "runs/gelu-w64-d2-s0"])) for name in names]
    (folders[1] / "summary.json").unlink()
    with (console := Console(width=width)).capture() as capture:
        console.print(runs.list_of([read_folder(folder) for folder in folders]), crop=False)
    text = capture.get()
    lines = [line for line in text.splitlines() if line.startswith("solu")]
    assert [line.split()[0] for line in lines] == names and "…" not in text
    assert ("in progress or cut short" in lines[1]) == (width > 30)
    assert ("runs/gelu-w64-d2-s0" in text.splitlines()[0]) == (width == 200)
    assert all(len(line.rstrip()) <= max(width, len(names[0])) for line in lines)
    words = " ".join(text.split())
    assert width == 200 or ("a wider terminal also shows:" in words and "minutes" in words)


def test_a_long_name_leaves_space_for_state_steps_and_loss(tmp_path: Path) -> None:
    names = ["[b]" * 66, "a"]
    rows = curve_rows([f"runs/reference-{index}" for index in range(45)])
    folders = [write_run(tmp_path / name, rows) for name in names]
    (folders[0] / "summary.json").unlink()
    with (console := Console(width=80)).capture() as capture:
        console.print(runs.list_of([read_folder(folder) for folder in folders]), crop=False)
    head, first, *others = capture.get().splitlines()
    assert head.split() == ["run", "state", "steps", "val", "loss"]
    assert len(first) == 80 and first.split()[1:] == "in progress or cut short 8".split()
    assert "".join([first.split()[0], *others[:5]]).replace(" ", "") == names[0]
    assert others[5].split() == ["a", "finished", "8", "4.500"]
    references = ", ".join(f"runs/reference-{index}" for index in range(6))
    assert f"a wider terminal also shows: {references} and 40 more" in " ".join(" ".join(others).split())


@pytest.mark.parametrize(
    ("width", "lines", "columns"),
    [
        (60, 2, "run state"),
        (80, 2, "run state steps val loss"),
        (120, 1, "run state steps val loss init"),
        (200, 1, "run state steps val loss init runs/reference minutes"),
    ],
)
def test_names_take_the_width_that_there_is(tmp_path: Path, width: int, lines: int, columns: str) -> None:
    folder = write_run(tmp_path / ("x" * 60), curve_rows(["init", "runs/reference"]))
    (folder / "summary.json").unlink()
    head, *rows = lines_of(runs.list_of([read_folder(folder)]), width)
    assert " ".join(head.split()) == columns and all(len(line) <= width for line in rows)
    names = [line.split()[0] for line in rows if line.startswith("x")]
    assert len(names) == lines and "".join(names) == folder.name
    assert ("last layer against each reference" in "\n".join(rows)) == ("init" in columns)


def test_a_pipe_gets_whole_names_and_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / ("x" * 198), curve_rows([f"runs/reference-{index}" for index in range(45)]))
    assert main(["list", str(folder)]) == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert row.split()[0] == folder.name and "runs/reference-44" in head and "minutes" in head


def test_a_run_is_watched_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "a")
    ended = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            (folder / "summary.json").write_text(json.dumps(ended))

    monkeypatch.setattr(runs.time, "sleep", wait)
    assert main(["watch", str(folder)]) == 0 and len(waits) == 2
    assert "a: finished, step 8, train/loss 3.000" in capsys.readouterr().out


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, words, advice in (
        ("list", "no run in", "give folders of runs, such as runs\n"),
        ("watch", "is not a run", "give a folder of a run, such as runs/a\n"),
    ):
        assert main([command, str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
        assert main([command, str(tmp_path / "gone")]) == 2
        assert f"gone does not exist; {advice}" in capsys.readouterr().err


def test_a_value_that_is_missing_has_no_interval(tmp_path: Path) -> None:
    rows = [row | {"value": math.nan, "dissimilarity": math.nan} if row["step"] == 8 else row for row in curve_rows()]
    (line,) = shown(runs.list_of([read_folder(write_run(tmp_path / "a", rows))]))[1:2]
    assert line.split() == ["a", "finished", "8", "4.500", "0.1"]


def test_an_unfinished_run_has_its_newest_loss_everywhere(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").unlink()
    Journal(folder / "metrics.jsonl").append([{"step": 4, "val/loss": 4.25}, {"step": 8, "val/loss": 4.125}])
    read = read_folder(folder)
    assert "4.125" in shown(runs.list_of([read]))[1]
    assert facts_of(read)["loss"].startswith("4.1250 nats per token")
    assert row_of(read, tmp_path, ["init"], "cka")[3] == 4.125


@pytest.mark.parametrize("less", [0, 1])
def test_a_name_is_broken_only_where_the_table_is_too_wide(tmp_path: Path, less: int) -> None:
    name = "solu-w64-d2-s0-" + "x" * 45
    table = runs.list_of([read_folder(write_run(tmp_path / name))])
    width = max(len(line.rstrip()) for line in lines_of(table, 300)) - less
    assert (name in "\n".join(lines_of(table, width))) == (less == 0)
