"""Callbacks of the config that ask for the run, and what callbacks add to summary.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from callbacks.run import Run
from tests.helpers.tiny_run import in_process, tiny
from train import train


class Noting(pl.Callback):
    """For a config: adds what it knows of the run to the summary."""

    def __init__(self, run: Run, word: str) -> None:
        self.run, self.word = run, word

    def summary(self) -> dict[str, Any]:
        sequences, positions = self.run.probe.shape
        return {"noted": [self.word, self.run.folder.name, sequences, positions, self.run.tokens_per_step]}


class Silent(pl.Callback):
    """For a config: knows nothing of the run, and has nothing for the summary."""


def test_a_callback_that_takes_the_run_gets_it_and_adds_to_the_summary(tmp_path: Path) -> None:
    nodes = {"+callbacks.noting._target_": f"{__name__}.Noting", "+callbacks.noting.word": "hello"}
    nodes["+callbacks.tracker_like._target_"] = f"{__name__}.Silent"
    assert in_process(tiny(tmp_path, **nodes)) == 0
    summary = json.loads((tmp_path / "runs/tiny/summary.json").read_text())
    assert summary["noted"] == ["hello", "tiny", 16, 16, 32]
    assert summary["tokens_per_second"] > 0 and 0 < summary["tracking_share"] < 1 and summary["drift"] == {}
    assert set(summary["moves"]) == {"init", "previous"}
    assert set(summary["moves"]["init"]["cka"]) == {"blocks.0.resid_post"}


@pytest.mark.parametrize(("group", "kind"), [("callbacks", "Callback"), ("logger", "Logger")])
def test_the_result_of_a_target_must_have_the_expected_kind(group: str, kind: str, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, **{f"+{group}.mine._target_": "builtins.print"})
    with pytest.raises(ValueError, match=f"builtins.print: expected a {kind}, found NoneType"):
        train(cfg)
    assert not (tmp_path / "runs").exists()


def test_without_tracker_and_console_the_summary_says_so(tmp_path: Path) -> None:
    cfg = tiny(tmp_path)
    del cfg.callbacks.tracker, cfg.callbacks.console
    assert in_process(cfg) == 0
    summary = json.loads((tmp_path / "runs/tiny/summary.json").read_text())
    assert summary["tokens_per_second"] is None and summary["tracking_share"] is None and summary["drift"] == {}
