"""The folder of a run records how its training ended, and the same command continues it if steps are left."""

import csv
import errno
import json
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kills import same
from callbacks.console import Console
from callbacks.time_limit import TimeLimit
from dissimilarity.tables.curves import INTRINSIC, JOURNAL, Curves, read_curves
from dissimilarity.tables.journal import Journal
from launch.run.folder import OVER, read_json
from tests.helpers.tiny_run import in_process, kill_at, kill_at_file, tiny
from train import train


def quick(folder: Path, **changes: Any) -> Any:
    """Return the config of a run without curves, whose end alone matters."""
    cfg = tiny(folder, **changes)
    del cfg.callbacks.tracker
    return cfg


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packed text and the finished run `whole`."""
    folder = tmp_path_factory.mktemp("ends")
    assert in_process(tiny(folder, name="whole")) == 0
    return folder


def at_step(step: int, action: Callable[[Any], None]) -> None:
    """Call `action(trainer)` in a training after `step` steps, before they are saved."""
    before = Console.on_train_batch_end

    def hooked(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        before(self, trainer, *args, **kwargs)
        if trainer.global_step == step:
            action(trainer)

    Console.on_train_batch_end = hooked


def stop(trainer: Any) -> None:
    trainer.should_stop = True


def fault(trainer: Any) -> None:
    raise RuntimeError("a cosmic ray")


def spoil(trainer: Any) -> None:
    with torch.no_grad():
        next(trainer.lightning_module.net.parameters()).fill_(float("nan"))


def out_of_time(step: int) -> None:
    """Let the time of a start run out after `step` steps."""
    before = TimeLimit.on_train_batch_start

    def hooked(self: Any, trainer: Any, *args: Any) -> None:
        self._duration = 1e9 if trainer.global_step < step else 0.0
        before(self, trainer, *args)

    TimeLimit.on_train_batch_start = hooked  # pyright: ignore


EARLY = {
    "+callbacks.early._target_": "pytorch_lightning.callbacks.EarlyStopping",
    "+callbacks.early.monitor": "val/loss",
    "+callbacks.early.min_delta": 100,
    "+callbacks.early.patience": 1,
}
LIMIT = {"+trainer.max_time": "00:01:00:00"}
ENDS: dict[str, tuple[Callable[[], None], dict[str, Any], int, str, int]] = {
    "signal": (partial(kill_at, "on_train_batch_end", 6, signal.SIGTERM), {}, 143, "interrupted", 6),
    "error": (partial(at_step, 6, fault), {}, 1, "failed", 4),
    "callback": (partial(at_step, 6, stop), {}, 0, "stopped", 6),
    "clock": (partial(out_of_time, 6), LIMIT, 128, "stopped", 6),
    "few-epochs": (lambda: None, {"+trainer.limit_train_batches": 6, "trainer.max_epochs": 1}, 0, "stopped early", 6),
    "early-stopping": (lambda: None, EARLY, 0, "stopped early", 6),
    "no-number": (partial(at_step, 5, spoil), {}, 0, "diverged", 11),
}
"""What ends it, changes of the config, the exit code, the status, and the last saved step."""


@pytest.mark.parametrize("end", ENDS)
def test_the_summary_says_how_a_run_ended_and_the_same_command_continues_it(end: str, home: Path) -> None:
    before, changes, code, status, saved = ENDS[end]
    run = home / "runs" / end
    assert in_process(quick(home, name=end, **changes), before) == code
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["run"]) == (status, end) and summary["why"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == saved
    strict(run)
    written = (run / "summary.json").stat().st_mtime_ns
    assert in_process(quick(home, name=end, **changes)) == 0
    if status in OVER:
        assert (run / "summary.json").stat().st_mtime_ns == written
    else:
        after = read_json(run / "summary.json")
        assert (after["status"], after["steps"]) == ("finished", 11) and "why" not in after


def test_a_run_that_a_time_limit_stops_repeatedly_equals_an_uninterrupted_one(home: Path) -> None:
    for step, saved in ((0, 1), (0, 2), (6, 6), (7, 7)):  # each start makes one step at least
        assert in_process(tiny(home, name="clocked", **LIMIT), partial(out_of_time, step)) == 128
        assert read_json(home / "runs" / "clocked" / "summary.json")["steps"] == saved
    assert in_process(tiny(home, name="clocked")) == 0
    first, second = (table(home / "runs" / name / "metrics.csv") for name in ("whole", "clocked"))
    assert first == second
    whole, clocked = (read_curves(home / "runs" / name).drop_columns("seconds") for name in ("whole", "clocked"))
    assert same(whole.to_pylist(), clocked.to_pylist())


MATCHED = {"depth": 2, "schedule__every": 2, "schedule__heatmap_every": 100}
ALERT = {"alerts": "[{rule: move, by: 0.000001, level: 0.9, stop: true}]"}
AT_A_TICK: dict[str, tuple[Callable[[], None], dict[str, Any]]] = {
    "signal": (partial(kill_at, "on_train_batch_end", 6, signal.SIGTERM), {}),
    "clock": (partial(out_of_time, 6), LIMIT),
    "callback": (partial(at_step, 6, stop), {}),
    "alert": (lambda: None, ALERT),
}


@pytest.fixture(scope="module")
def matched(home: Path) -> Path:
    """Return the finished run ``matched``, whose ticks compare all pairs at the first and last step only."""
    assert in_process(tiny(home, name="matched", **MATCHED)) == 0
    return home / "runs" / "matched"


@pytest.mark.parametrize("end", AT_A_TICK)
def test_a_run_that_ends_at_a_tick_has_all_pairs_there_until_it_continues(end: str, home: Path, matched: Path) -> None:
    """Kills of the continuation before its first checkpoint change nothing either."""
    before, changes = AT_A_TICK[end]
    run = home / "runs" / f"at-{end}"
    cfg = tiny(home, name=run.name, **MATCHED, **changes)
    in_process(cfg, before)
    summary = read_json(run / "summary.json")
    assert ("alert at step" in summary["why"]) == (end == "alert")
    rows = read_curves(run).to_pylist()
    last = max(row["step"] for row in rows)
    pairs = {row["site_a"] + row["site_b"] for row in rows if row["step"] == last and row["reference"] == "init"}
    assert len(pairs) == 4 and 0 < last < 11
    for _ in range(2):
        assert in_process(cfg, partial(kill_at, "on_train_batch_start", last)) == -signal.SIGKILL
    assert in_process(cfg) == 0
    first, second = (table(folder / "metrics.csv") for folder in (matched, run))
    validated = [name for name in first[last] if name.startswith("val/")]
    if end in ("callback", "alert"):  # Lightning validates where a callback stops it
        assert all(second[last].pop(name) for name in validated) and [first[last].pop(name) for name in validated]
    assert first == second
    assert same(*(Journal(folder / INTRINSIC).read() for folder in (matched, run)))
    whole, continued = (read_curves(folder).drop_columns("seconds").to_pylist() for folder in (matched, run))
    assert same(whole, continued)


def test_a_run_killed_before_its_summary_has_the_same_one(home: Path) -> None:
    cfg = tiny(home, name="no-summary")
    assert in_process(cfg, partial(kill_at_file, "summary.json", 1)) == -signal.SIGKILL
    assert in_process(cfg) == 0
    whole, cut = (read_json(home / "runs" / name / "summary.json") for name in ("whole", "no-summary"))
    of_the_clock = ("run", "seconds", "tokens_per_second", "tracking_share")
    assert {key: cut[key] for key in cut if key not in of_the_clock} == {
        key: whole[key] for key in whole if key not in of_the_clock
    }
    assert 0 < cut["tracking_share"] < 1


EARLIER = {
    "patience": (EARLY, 6),
    "no patience": (EARLY | {"+callbacks.early.patience": 0}, 6),
    "threshold": (EARLY | {"+callbacks.early.patience": 50, "+callbacks.early.stopping_threshold": 100}, 3),
}


@pytest.mark.parametrize("reason", EARLIER)
def test_a_run_that_early_stopping_ended_does_no_step_more_if_it_was_killed_then(reason: str, home: Path) -> None:
    early, steps = EARLIER[reason]
    cfg = tiny(home, name=f"early-killed-{steps}-{len(reason)}", **early)
    run = home / "runs" / cfg.name
    assert in_process(cfg, partial(kill_at_file, "summary.json", 1)) == -signal.SIGKILL
    before = read_curves(run).to_pylist()
    assert in_process(cfg) == 0
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["steps"]) == ("stopped early", steps) and summary["val_loss"] > 0
    assert same(
        read_curves(run).drop_columns("seconds").to_pylist(),
        [{key: row[key] for key in row if key != "seconds"} for row in before],
    )


def full_disk_from(step: int) -> None:
    """Let no row of a step from this one on be written."""
    append = Curves.append

    def failing(self: Curves, rows: Any) -> None:
        rows = list(rows)
        if any(row["step"] >= step for row in rows):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, rows)

    Curves.append = failing  # pyright: ignore


@pytest.mark.parametrize(("full", "end"), [(6, 7), (4, 6), (4, 7)])
def test_rows_that_wait_where_a_run_ends_are_there_when_it_continues(
    full: int, end: int, home: Path, matched: Path
) -> None:
    def before() -> None:
        full_disk_from(full)
        kill_at("on_train_batch_end", end, signal.SIGTERM)

    cfg = tiny(home, name=f"full-{full}-{end}", **MATCHED)
    assert in_process(cfg, before) == 143
    assert in_process(cfg) == 0
    folders = matched, home / "runs" / f"full-{full}-{end}"
    assert same(*(read_curves(folder).drop_columns("seconds").to_pylist() for folder in folders))


def test_a_run_continues_without_a_deleted_journal_after_a_tick_of_matched_pairs(home: Path, matched: Path) -> None:
    cfg = tiny(home, name="deleted", **MATCHED)
    assert in_process(cfg, partial(kill_at, "on_train_batch_start", 7)) == -signal.SIGKILL
    (home / "runs" / "deleted" / JOURNAL).unlink()
    assert in_process(cfg) == 0
    last = [
        read_curves(folder).drop_columns("seconds").to_pylist()[-24:] for folder in (matched, home / "runs/deleted")
    ]
    assert same(*last)


def test_a_diverged_run_says_at_which_step_and_keeps_its_tables(home: Path) -> None:
    assert in_process(tiny(home, name="spoilt"), partial(at_step, 5, spoil)) == 0
    run = home / "runs" / "spoilt"
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["diverged_at"], summary["val_loss"]) == ("diverged", 5, None)
    assert math.isnan(float(table(run / "metrics.csv")[-1]["val/loss"]))
    assert any(math.isnan(value) for value in read_curves(run)["value"].to_pylist())
    strict(run)


def test_a_training_without_a_step_is_rejected(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for width in (16, 32):
        cfg = quick(home, name="nothing", width=width, **{"+trainer.limit_train_batches": 0})
        assert in_process(cfg) == 1
        assert "ValueError: the training made no step" in capfd.readouterr().err


def test_after_an_error_before_step_0_the_corrected_command_starts_over(home: Path) -> None:
    def break_off() -> None:
        def fail(self: Any, trainer: Any, *args: Any) -> None:
            raise RuntimeError("no site in common")

        Console.on_train_start = fail  # pyright: ignore

    assert in_process(quick(home, name="corrected"), break_off) == 1
    assert not (home / "runs/corrected/summary.json").exists()
    assert in_process(quick(home, name="corrected", width=32)) == 0


@pytest.mark.parametrize("count", [True, 1, 3])
def test_a_dev_run_is_rejected_before_anything_is_written(count: int | bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"trainer.fast_dev_run={str(count).lower()}: .*type debug=fdr"):
        train(tiny(tmp_path, **{"+trainer.fast_dev_run": count}))
    assert not (tmp_path / "runs").exists()


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if "seconds" not in key and "share" not in key} for row in rows]


def strict(run: Path) -> None:
    """Check that a strict JSON reader reads every JSON file of a run."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for path in [*run.glob("*.json"), *run.glob("*.jsonl")]:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)


def test_a_run_against_an_unfinished_one_says_which_step_it_takes(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert in_process(quick(home, name="half"), partial(kill_at, "on_train_batch_end", 6, signal.SIGTERM)) == 143
    against = "[init,runs/half,runs/whole,runs/half@2]"
    cfg = partial(tiny, home, name="against", references=against)
    assert in_process(cfg(), partial(kill_at, "on_train_batch_end", 6)) == -signal.SIGKILL
    references = "init, runs/half at step 4 of an unfinished run, runs/whole, runs/half@2"
    assert references in capfd.readouterr().out
    assert in_process(quick(home, name="half")) == 0
    assert in_process(cfg()) == 0
    assert references in capfd.readouterr().out, "the step that the run began with, though the other has gone on"
    notes = read_json(home / "runs/against/provenance.json")["references"]
    assert {uri: (note["step"], note.get("unfinished", False)) for uri, note in notes.items()} == {
        "runs/half": (4, True),
        "runs/whole": (11, False),
        "runs/half@2": (2, False),
    }
