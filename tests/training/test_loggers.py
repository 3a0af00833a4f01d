"""A training outlives its loggers, and W&B never asks."""

from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.loggers import guarded
from callbacks.metrics import MetricsLogger
from callbacks.wandb_run import WandbRun, chosen_mode


def test_a_logger_that_fails_warns_once_and_never_raises() -> None:
    class Broken(MetricsLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            raise ConnectionError("no route to host")

    logger = guarded(Broken("."))
    with pytest.warns(
        UserWarning, match="Broken failed .ConnectionError: no route to host.; the training goes on"
    ) as seen:
        logger.log_metrics({"a": 1.0}, step=0)
        logger.log_metrics({"a": 1.0}, step=1)
    assert len(seen) == 1


def test_later_values_stand_in_the_table_and_rows_of_later_steps_go(tmp_path: Any) -> None:
    logger = MetricsLogger(tmp_path)
    for step, metrics in [
        (0, {"a": 1.0}),
        (0, {"b": 2.5}),
        (1, {"a": 3.0, "epoch": 0}),
        (1, {"a": 4.0}),
        (2, {"a": 9.0}),
    ]:
        logger.log_metrics(metrics, step=step)
    logger.flush()
    logger.truncate(1)
    logger.finalize("finished")
    assert (tmp_path / "metrics.csv").read_text() == "step,a,b\n0,1.0,2.5\n1,4.0,\n"


def test_the_mode_is_offline_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert chosen_mode(None) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert (chosen_mode(None), chosen_mode("disabled")) == ("online", "disabled")
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert chosen_mode(None) == "offline"
    with pytest.raises(ValueError, match="logger.wandb.mode=offlin: expected one of offline"):
        chosen_mode("offlin")


def test_online_falls_back_to_offline_and_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def init(**arguments: Any) -> Any:
        asked.append((arguments["mode"], arguments["id"], arguments["resume"]))
        if arguments["mode"] != "disabled":
            raise RuntimeError("No API key configured.\nmore")
        return SimpleNamespace(disabled=True)

    monkeypatch.setattr("wandb.init", init)
    run = WandbRun("name", tmp_path, run_id="abc", mode="online")
    assert run.experiment is not None
    assert asked == [("online", "abc", "allow"), ("offline", "abc", None), ("disabled", "abc", None)]
    said = capsys.readouterr().err
    assert "W&B could not begin online (No API key configured.); it goes on offline" in said
    assert "it goes on disabled" in said
