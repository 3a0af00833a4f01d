"""A training outlives its loggers, and W&B never asks."""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers.logger import Logger

from callbacks.loggers import guarded
from callbacks.metrics import MetricsLogger
from callbacks.wandb_run import WandbRun, chosen_mode
from tests.helpers.tiny_run import in_process, tiny


class Broken(Logger):
    """A logger of which every part fails in the same way: it calls `fault`."""

    def __init__(self, fault: Callable[[], Any]) -> None:
        super().__init__()
        self.fault = fault

    name = version = log_dir = save_dir = experiment = property(lambda self: self.fault())  # pyright: ignore

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.fault()

    log_hyperparams = log_graph = after_save_checkpoint = log_metrics  # pyright: ignore
    log_image = log_table = replay = log_checkpoint = finalize = log_metrics  # pyright: ignore

    def save(self) -> None:
        self.fault()

    finish = save


def fail(error: BaseException) -> Any:
    raise error


USES: dict[str, Callable[[Any], Any]] = {
    "log_metrics": lambda logger: logger.log_metrics({"a": 1.0}, step=0),
    "log_hyperparams": lambda logger: logger.log_hyperparams({"a": 1.0}),
    "log_graph": lambda logger: logger.log_graph(None),
    "after_save_checkpoint": lambda logger: logger.after_save_checkpoint(None),
    "log_image": lambda logger: logger.log_image(None),
    "log_table": lambda logger: logger.log_table(None),
    "log_checkpoint": lambda logger: logger.log_checkpoint(None),
    "replay": lambda logger: logger.replay({}),
    "save": lambda logger: logger.save(),
    "close": lambda logger: logger.close(),
    "name": lambda logger: logger.name,
    "version": lambda logger: logger.version,
    "log_dir": lambda logger: logger.log_dir,
    "save_dir": lambda logger: logger.save_dir,
    "experiment": lambda logger: logger.experiment.define_metric("a"),
}


@pytest.mark.parametrize("error", [ConnectionError("no route"), SystemExit(3), TimeoutError("late")], ids=repr)
@pytest.mark.parametrize("use", USES)
def test_a_logger_that_fails_warns_once_and_never_raises(use: str, error: BaseException) -> None:
    logger = guarded(Broken(partial(fail, error)))
    with pytest.warns(UserWarning, match=f"Broken failed .{type(error).__name__}: .*; training continues") as seen:
        USES[use](logger)
        USES[use](logger)
    assert len(seen) == 1


@pytest.mark.parametrize("use", USES)
def test_a_logger_that_hangs_is_abandoned(use: str) -> None:
    ended = threading.Event()
    logger = guarded(Broken(lambda: ended.wait(60)), seconds=0.05)
    try:
        with pytest.warns(UserWarning, match="Broken did not answer for 0 s and is abandoned; training continues"):
            USES[use](logger)
        start = time.monotonic()
        for other in USES.values():
            other(logger)
        assert time.monotonic() - start < 1
    finally:
        ended.set()


def test_an_experiment_whose_own_calls_fail_is_guarded_too() -> None:
    logger = guarded(Broken(lambda: SimpleNamespace(log=lambda row: fail(OSError("gone")), dir="there")))
    assert logger.experiment.dir == "there"
    with pytest.warns(UserWarning, match="Broken failed .OSError: gone"):
        assert logger.experiment.log({}) is None


def test_a_guard_has_only_what_its_logger_has() -> None:
    logger = guarded(MetricsLogger("."))
    assert not hasattr(logger, "log_image") and not hasattr(logger, "_anything") and logger.name == "metrics"


def test_a_training_with_a_broken_logger_has_its_summary_before_the_logger_closes(tmp_path: Any) -> None:
    """The logger of the config raises in every part, in Lightning's own calls too."""

    def check(self: Any) -> None:
        assert (tmp_path / "runs/tiny/summary.json").exists()
        (tmp_path / "closed").touch()
        raise ConnectionError("no route to host")

    def breaking() -> None:
        Broken.finish = check  # pyright: ignore

    target = {"+logger.own._target_": f"{__name__}.broken", "callbacks.console.every_seconds": 100}
    assert in_process(tiny(tmp_path, **target), breaking) == 0
    assert json.loads((tmp_path / "runs/tiny/summary.json").read_text())["status"] == "finished"
    assert (tmp_path / "closed").exists()


def broken() -> Logger:
    """Return a logger that always fails, for a config."""
    return Broken(partial(fail, ConnectionError("no route to host")))


def test_later_values_replace_earlier_ones_and_records_of_later_steps_go(tmp_path: Any) -> None:
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
    message = capsys.readouterr().err
    assert "could not start W&B online, continuing offline (No API key configured.)" in message
    assert "continuing disabled" in message


def test_a_training_waits_for_a_slow_server_for_a_limited_time(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(exit_code: int) -> None:
        raise TimeoutError("Timed out finishing run.")

    run = WandbRun("name", tmp_path, run_id="abc", mode="online", finish_timeout=7)
    settings = run._wandb_init["settings"]
    assert (settings.finish_timeout, settings.finish_timeout_raises) == (7, True)
    run._experiment = SimpleNamespace(finish=finish, dir=str(tmp_path / "wandb/run-1-abc/files"))  # pyright: ignore
    run.finish()
    assert "did not take everything within 7 s; wandb sync" in capsys.readouterr().err


def test_a_process_of_wandb_that_hangs_does_not_outlive_its_run(tmp_path: Any, monkeypatch: Any) -> None:
    done: list[str] = []
    process = SimpleNamespace(_process=SimpleNamespace(kill=lambda: done.append("killed")))
    setup = SimpleNamespace(_connection=SimpleNamespace(owns_service=True, _proc=process))
    monkeypatch.setattr("wandb.sdk.wandb_setup.singleton", lambda: setup)
    monkeypatch.setattr("wandb.sdk.wandb_setup.teardown", lambda: done.append("let go of"))
    run = WandbRun("name", tmp_path, mode="offline")
    run.finish = lambda exit_code=0: fail(ConnectionResetError("lost"))  # pyright: ignore
    with pytest.warns(UserWarning, match="WandbRun failed .ConnectionResetError"):
        guarded(run).close()
    assert done == ["killed", "let go of"]
