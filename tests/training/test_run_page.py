"""A training leaves the page of its run, finished or cut short, and starts over where there is one."""

import json
from pathlib import Path
from typing import Any

import pytest

import train
from callbacks.interrupted import Interrupted
from callbacks.validation import FinalValidation
from dissimilarity.report import page
from dissimilarity.tables.curves import read_curves, select
from tests.helpers.report_folders import Page
from tests.helpers.tiny_run import tiny


@pytest.fixture
def pages(no_refresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "refresh", no_refresh)


def test_a_finished_run_has_its_page(tmp_path: Path, pages: None) -> None:
    summary = train.train(tiny(tmp_path))
    folder = tmp_path / "runs" / "tiny"
    shown = Page((folder / "report.html").read_text())
    assert "finished at step 11" in shown.text and f"{summary['val_loss']:.4f} nats" in shown.text
    assert f"{json.loads((folder / 'provenance.json').read_text())['parameters']:,}" in shown.text
    (panel,) = shown.data["panel-0-0"]["runs"]
    rows = select(read_curves(folder), reference="init", measure="cka")
    assert panel["steps"] == rows["step"].to_pylist()
    assert panel["curves"][0]["d"] == [float(f"{value:.5g}") for value in rows["dissimilarity"].to_pylist()]
    assert {row["series"] for row in shown.data["page"]["losses"]} == {"train/loss", "val/loss"}
    train.train(tiny(tmp_path, overwrite="true", **{"trainer.max_steps": 2}))
    assert "finished at step 2" in Page((folder / "report.html").read_text()).text


def test_a_run_that_is_cut_short_says_so(tmp_path: Path, pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = FinalValidation.on_train_batch_end

    def stopped(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        before(self, trainer, *args, **kwargs)
        if trainer.global_step == 9:
            raise Interrupted(2, 9)

    monkeypatch.setattr(FinalValidation, "on_train_batch_end", stopped)
    with pytest.raises(Interrupted):
        train.train(tiny(tmp_path))
    assert "interrupted at step 9" in Page((tmp_path / "runs" / "tiny" / "report.html").read_text()).text
