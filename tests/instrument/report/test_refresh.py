"""A page is written while a model trains and at the end, and a fault in it ends nothing."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity.cli.command import main
from dissimilarity.measures.cka import CKA
from dissimilarity.report import page
from dissimilarity.tracking import tables
from dissimilarity.tracking.tracker import Tracker
from tests.helpers.report_folders import Page, write_run


@pytest.fixture
def refresh(no_refresh: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let pages be written in this test."""
    monkeypatch.setattr(page, "refresh", no_refresh)
    return no_refresh


def follow(folder: Path, steps: int = 6) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tracker = Tracker(["init"], CKA(), torch.randint(9, (8, 4)), folder, sites="*", every=2, heatmap_every=2)
    for step in range(steps + 1):
        tracker.follow(model, step, steps)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


def test_it_is_refreshed_at_heat_maps_and_at_the_end(tmp_path: Path, refresh: Any, monkeypatch: Any) -> None:
    seen: list[int] = []

    def recorded(folder: Path) -> None:
        refresh(folder)
        (data,) = re.findall(r'id="panel-0-0">(.*?)</script>', (folder / "report.html").read_text())
        seen.append(json.loads(data)["runs"][0]["steps"][-1])

    monkeypatch.setattr(page, "refresh", recorded)
    monkeypatch.setattr(tables, "PAGE_SHARE", 1e9)
    follow(tmp_path)
    assert seen == [0, 2, 4, 6, 6]


def test_it_takes_little_of_the_time(tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(page, "refresh", seen.append)
    monkeypatch.setattr(tables, "PAGE_SHARE", 1e-9)
    follow(tmp_path)
    assert len(seen) == 2, "the first heat map and the end"


def test_a_fault_is_a_warning_and_training_goes_on(tmp_path: Path, refresh: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(page, "page_of", lambda content: 1 / 0)
    with caplog.at_level(logging.WARNING):
        follow(tmp_path)
    assert "could not write" in caplog.text and "ZeroDivisionError" in caplog.text
    assert (tmp_path / "curves.parquet").exists() and not (tmp_path / "report.html").exists()


def test_the_command_writes_into_the_folder_or_beside_several(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    a, b = (write_run(tmp_path / "runs" / name) for name in "ab")
    elsewhere = write_run(tmp_path / "old" / "c")
    monkeypatch.chdir(tmp_path)
    for folders, path in (
        ([a], a / "report.html"),
        ([a, b], tmp_path / "runs" / "report.html"),
        ([tmp_path / "runs"], tmp_path / "runs" / "report.html"),
        ([a, elsewhere], tmp_path / "report.html"),
        ([a, "--out", tmp_path / "new" / "x.html"], tmp_path / "new" / "x.html"),
        ([a, "--out", tmp_path], tmp_path / "report.html"),
    ):
        path.unlink(missing_ok=True)
        assert main(["report", *map(str, folders)]) == 0
        assert Path(capsys.readouterr().out.strip()).resolve() == path and "cka" in Page(path.read_text()).text
    assert main(["report", str(tmp_path / "nope")]) == 2
    assert "nope does not exist; give a folder of a run" in capsys.readouterr().err
    assert main(["report", str(a), "--out", str(a / "config.yaml" / "x.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
