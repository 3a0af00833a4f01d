"""Whatever makes the Trainer save, and whatever ends it then, its checkpoints have what the curves need."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dissimilarity import read_curves

transformers = pytest.importorskip("transformers")
jit = pytest.importorskip("transformers.trainer_jit_checkpoint")
pytest.importorskip("peft")

from tests.instrument.tracking.test_huggingface import adapted, curves, train, tuned  # noqa: E402, F401

Tuned = tuple[Path, nn.Module]


def stop_on_sigterm(monkeypatch: pytest.MonkeyPatch, before: str, step: int) -> Any:
    """Return a callback that makes the Trainer save and stop, at the event after the one that is named."""
    managers: list[Any] = []

    class Request(transformers.TrainerCallback):
        pass

    def request(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        managers[-1].is_checkpoint_requested = state.global_step == step

    setattr(Request, before, request)
    monkeypatch.setattr(jit.CheckpointManager, "setup_signal_handler", lambda self: managers.append(self))
    return Request()


@pytest.mark.parametrize("before", ["on_step_end", "on_step_begin", "on_pre_optimizer_step"])
def test_a_checkpoint_on_sigterm(
    before: str,
    tuned: Tuned,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is saved before the tick of its step, and without `on_save`."""
    request = stop_on_sigterm(monkeypatch, before, 5)
    train(adapted(), tmp_path, more=[request], arguments={"enable_jit_checkpoint": True})
    step = 6 if before == "on_pre_optimizer_step" else 5
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", f"checkpoint-{step}"}
    train(adapted(), tmp_path, resume=True)
    assert curves(tmp_path) == curves(tuned[0])


def test_a_checkpoint_on_sigterm_after_one_at_each_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before need no file; that one needs the state of the tick before, and the tick after it does not."""
    choices: dict[str, Any] = {"steps": 14, "references": ["init", "previous"]}
    request = stop_on_sigterm(monkeypatch, "on_pre_optimizer_step", 11)
    train(adapted(), tmp_path, more=[request], arguments={"enable_jit_checkpoint": True, "save_steps": 3}, **choices)
    assert (tmp_path / "checkpoint-12").exists()
    train(adapted(), tmp_path, resume=True, **choices)
    train(adapted(), tmp_path / "whole", **choices)
    assert curves(tmp_path) == curves(tmp_path / "whole")


class Asking(transformers.TrainerCallback):
    """A callback that asks for a checkpoint, after those before it heard of the step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 7


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "no"])
def test_a_trainer_that_is_killed_while_it_saves(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is complete, as after a failed upload, and no callback hears of it."""

    def rotate(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    arguments: dict[str, Any] = {"save_strategy": strategy, "save_steps": 6}
    if strategy == "best":  # of evaluations, at a step between two ticks
        arguments |= {"eval_strategy": "steps", "eval_steps": 8, "metric_for_best_model": "loss"}
    more = [Asking()] if strategy == "no" else []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(transformers.trainer, "rotate_checkpoints", rotate)
        train(adapted(), tmp_path, steps=12, arguments=arguments, more=more)
    saved = {"steps": 6, "epoch": 10, "best": 8, "no": 7}[strategy]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{saved}"]
    train(adapted(), tmp_path, steps=12, resume=True)
    train(adapted(), tmp_path / "whole", steps=12)
    assert curves(tmp_path) == curves(tmp_path / "whole")


class Stopped(transformers.TrainerCallback):
    """A callback that ends a training after a step, with the Trainer or without."""

    def __init__(self, step: int, is_killed: bool = False) -> None:
        self.step, self.is_killed = step, is_killed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and self.is_killed:
            raise KeyboardInterrupt
        control.should_training_stop = state.global_step == self.step


def test_a_training_that_goes_on_after_it_stopped_at_a_tick_has_that_tick_as_it_was(tmp_path: Path) -> None:
    """Its checkpoint is of before its end, which compared all pairs of sites."""

    arguments = {"save_steps": 1}
    train(adapted(), tmp_path, arguments=arguments, more=[Stopped(3)])
    assert (3, "init", "blocks.0.resid_post", "blocks.1.resid_post") in curves(tmp_path)
    train(adapted(), tmp_path, arguments=arguments, resume=True)
    train(adapted(), tmp_path / "whole", arguments=arguments)
    assert curves(tmp_path) == curves(tmp_path / "whole")


def test_a_checkpoint_before_the_first_tick_of_a_continuation_has_its_own_state(tmp_path: Path) -> None:
    """The state of the checkpoint before is that of an end between two ticks."""
    choices: dict[str, Any] = {"every": 4, "heatmap_every": 9}
    constant = {"lr_scheduler_type": "constant"}
    epochs = {"save_strategy": "epoch", **constant}  # of 10 steps
    train(adapted(), tmp_path, steps=9, arguments={"save_steps": 9, **constant}, **choices)
    with pytest.raises(KeyboardInterrupt):
        train(adapted(), tmp_path, steps=16, resume=True, arguments=epochs, more=[Stopped(11, True)], **choices)
    train(adapted(), tmp_path, steps=16, resume=tmp_path / "checkpoint-10", arguments=epochs, **choices)
    train(adapted(), tmp_path / "whole", steps=16, arguments=epochs, **choices)
    assert curves(tmp_path) == curves(tmp_path / "whole")


def test_checkpoints_of_another_output_folder_keep_what_they_need(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"steps": 14, "references": ["init", "previous"], "every": 4}
    choices |= {"arguments": {"save_steps": 3}, "folder": tmp_path / "dissimilarity"}
    first = tmp_path / "first"
    with pytest.raises(KeyboardInterrupt):
        train(adapted(), first, more=[Stopped(11, True)], **choices)
    with pytest.raises(KeyboardInterrupt):
        train(adapted(), tmp_path / "second", resume=first / "checkpoint-9", more=[Stopped(10, True)], **choices)
    train(adapted(), tmp_path / "third", resume=first / "checkpoint-6", **choices)
    choices["folder"] = None
    train(adapted(), tmp_path / "whole", **choices)
    assert curves(tmp_path) == curves(tmp_path / "whole")


def test_a_file_that_cannot_be_deleted_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("previous-"):
            raise OSError("read-only file system")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    train(adapted(), tmp_path, arguments={"save_strategy": "no"}, references=["init", "previous"])
    assert "could not delete" in caplog.text


def rows_by_tick(folder: Path) -> dict[tuple[int, str], tuple[int, bool]]:
    """Return the step of the reference, and whether there is a value, by step and reference."""
    rows = read_curves(folder).to_pylist()
    return {(row["step"], row["reference"]): (row["reference_step"], not row["note"]) for row in rows}


def test_the_step_that_is_resumed_has_a_tick(tuned: Tuned, tmp_path: Path) -> None:  # noqa: F811
    """The checkpoint is of a training without the callback."""
    checkpoint = shutil.copytree(tuned[0] / "checkpoint-4", tmp_path / "checkpoint-4")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["dissimilarity"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    train(adapted(), tmp_path, steps=8, resume=True, every=4, references=["init", "previous"])
    assert rows_by_tick(tmp_path / "dissimilarity") == {
        (4, "init"): (0, False),
        (4, "previous"): (0, False),
        (8, "init"): (0, False),
        (8, "previous"): (4, True),
    }


def test_steps_without_the_callback_are_lost_and_those_before_are_not(tuned: Tuned, tmp_path: Path) -> None:  # noqa: F811
    """Such a training keeps the callback's state of an earlier step in its checkpoints."""
    folder = shutil.copytree(tuned[0], tmp_path / "tuned")
    older, newer = (folder / f"checkpoint-{step}" / "trainer_state.json" for step in (4, 7))
    state = json.loads(newer.read_text())
    state["stateful_callbacks"] = json.loads(older.read_text())["stateful_callbacks"]
    newer.write_text(json.dumps(state))
    for file in (folder / "dissimilarity" / "references").glob("previous-6-*"):
        file.unlink()
    train(adapted(), folder, steps=12, resume=True)
    ticks = rows_by_tick(folder / "dissimilarity")
    assert ticks[9, "init"] == (0, True) and ticks[9, "previous"] == (6, False) and ticks[12, "previous"] == (9, True)


def best_at(step: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments of a training that evaluates each step and saves until one of them is the best."""
    evaluate = transformers.Trainer._evaluate

    def improved_until(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        return evaluate(self, *args, **kwargs) | {"eval_quality": float(min(self.state.global_step, step))}

    monkeypatch.setattr(transformers.Trainer, "_evaluate", improved_until)
    best = {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "quality"}
    return best | {"greater_is_better": True}


def test_evaluations_after_the_best_one_leave_its_checkpoint_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evaluation may be the best, and what it would have needed is saved before that is known."""
    best = best_at(5, monkeypatch)

    changes = {"steps": 14, "references": ["init", "previous"], "every": 8}
    with pytest.raises(KeyboardInterrupt):
        train(adapted(), tmp_path, arguments=best, more=[Stopped(11, True)], **changes)
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    train(adapted(), tmp_path, resume=newest, arguments=best, **changes)
    train(adapted(), tmp_path / "whole", arguments=best, **changes)
    assert curves(tmp_path) == curves(tmp_path / "whole")


def test_evaluations_that_are_not_the_best_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are those of the best checkpoint and the two before it, and of the last tick."""
    choices: dict[str, Any] = {"steps": 20, "references": ["init", "previous"], "every": 2}
    train(adapted(), tmp_path, arguments=best_at(5, monkeypatch), **choices)
    files = (tmp_path / "dissimilarity" / "references").glob("previous-*")
    assert {int(file.name.split("-")[1]) for file in files} == {2, 4, 20}
