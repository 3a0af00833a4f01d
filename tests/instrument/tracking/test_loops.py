"""A loop of one's own: what it saves and continues, and a second training with the same tracker."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity import CKA, Tracker, read_curves
from dissimilarity.tracking import reference_store
from dissimilarity.tracking.penalties import PenaltyTracker
from dissimilarity.tracking.training_state import TrainingState
from tests.instrument.tracking.test_references import Wrapped
from tests.instrument.tracking.test_tracker import LENGTH, tokens

EVERY, LAST = 10, 26
PROBE = torch.randint(20, (12, 8), generator=torch.Generator().manual_seed(0))

Saved = dict[str, Any]


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 6), nn.GELU())


def tracker_in(folder: Path, references: Any = ("init", "previous"), **choices: Any) -> Tracker:
    return Tracker(references, CKA(), PROBE, folder, **{"sites": "1", "every": EVERY, "n_units": 4, **choices})


def update(model: nn.Module, step: int, size: float = 0.1) -> None:
    noise = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=noise))


def train(tracker: Tracker, model: nn.Module, start: int, stop: int, size: float = 0.1) -> None:
    for step in range(start, stop):
        tracker.follow(model, step, LAST)
        update(model, step, size)
    if stop == LAST:
        tracker.follow(model, LAST, LAST)


def saved(tracker: Tracker, model: nn.Module) -> Saved:
    return copy.deepcopy({"model": model.state_dict(), "tracker": tracker.state_dict()})


def continued(folder: Path, checkpoint: Saved, **choices: Any) -> tuple[Tracker, nn.Module]:
    tracker, model = tracker_in(folder, **choices), net()
    model.load_state_dict(checkpoint["model"])
    tracker.load_state_dict(checkpoint["tracker"])
    return tracker, model


def curves_of(folder: Path) -> dict[tuple[str, int], tuple[int, float, str]]:
    """Return step of the reference, value and note by reference and step."""
    rows = read_curves(folder).to_pylist()
    return {(row["reference"], row["step"]): (row["reference_step"], row["value"], row["note"]) for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(tracker_in(folder), net(), 0, LAST)
    return folder


@pytest.mark.parametrize("step", [3, 10, 11, 14, 20, 26])
def test_a_loop_continues_as_if_it_had_never_stopped(step: int, whole: Path, tmp_path: Path) -> None:
    tracker, model = tracker_in(tmp_path), net()
    train(tracker, model, 0, step)
    tracker, model = continued(tmp_path, saved(tracker, model))
    train(tracker, model, step, LAST)
    assert curves_of(tmp_path) == curves_of(whole)


def test_an_end_soon_after_an_old_checkpoint_compares_what_was_in_memory_there(tmp_path: Path) -> None:
    """Of the dense start, which no planned tick compares any more."""
    folders, states = [tmp_path / "whole", tmp_path / "cut"], []
    for folder, stop in zip(folders, (15, 31), strict=True):
        tracker, model = tracker_in(folder), net()
        for step in range(stop):
            tracker.follow(model, step, 60)
            states += [saved(tracker, model)] if folder == folders[1] and step in (15, 22, 29) else []
            update(model, step)
        if folder == folders[0]:
            tracker.follow(model, 15, 60)
            tracker.follow(model, 15, 15)
    tracker, model = continued(folders[1], states[0])
    tracker.follow(model, 15, 60)
    tracker.follow(model, 15, 15)
    curves = curves_of(folders[1])
    assert curves == curves_of(folders[0]) and math.isfinite(curves["previous", 15][1])


@pytest.mark.parametrize("saves", [1, 2])
def test_states_of_many_continuations_do_not_pile_up(saves: int, tmp_path: Path) -> None:
    tracker, model = tracker_in(tmp_path, every=4), net()
    for step in range(61):
        tracker.follow(model, step, 200)
        if step and step % 6 < saves:
            checkpoint = saved(tracker, model)
        if step % 6 == saves:
            tracker, model = continued(tmp_path, checkpoint, every=4) if step > saves else (tracker, model)
        update(model, step)
    assert len(list((tmp_path / "references").glob("previous-*"))) <= 5


@pytest.mark.parametrize("end", ["stopped", "stopped after it was saved", "planned"])
def test_a_loop_that_goes_on_after_an_end_at_a_tick_has_that_tick_as_it_was(end: str, tmp_path: Path) -> None:
    """Its end compared all pairs of sites, and one that was never interrupted does not, there."""

    def trained(folder: Path, last: int) -> tuple[Tracker, nn.Module]:
        tracker, model = tracker_in(folder, sites=["0", "1"]), net()
        for step in range(20):
            tracker.follow(model, step, last)
            update(model, step)
        tracker.follow(model, 20, last)
        return tracker, model

    def rows(folder: Path) -> list[str]:
        table = read_curves(folder)
        return sorted(str(row) for row in table.drop_columns(["seconds"]).to_pylist() if row["step"] <= 20)

    trained(tmp_path / "whole", LAST)
    tracker, model = trained(tmp_path / "cut", 20 if end == "planned" else LAST)
    checkpoint = saved(tracker, model)
    tracker.follow(model, 20, 20)
    assert len(rows(tmp_path / "cut")) > len(rows(tmp_path / "whole"))
    checkpoint = checkpoint if end == "stopped after it was saved" else saved(tracker, model)
    tracker, model = continued(tmp_path / "cut", checkpoint, sites=["0", "1"])
    train(tracker, model, 20, LAST)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize("has_adapter", [False, True])
def test_an_older_checkpoint_has_no_state_of_what_came_after_it(has_adapter: bool, tmp_path: Path) -> None:
    """From step 8 on, training takes other steps, so that the model at step 10 is another one."""

    def checkpoint(tracker: Tracker, model: nn.Module, step: int) -> Saved:
        if has_adapter:
            tracker._followed = None
            tracker.before_checkpoint(TrainingState(model, step))
        return saved(tracker, model)

    tracker, model = tracker_in(tmp_path), net()
    train(tracker, model, 0, 8)
    older = checkpoint(tracker, model, 8)
    tracker, model = continued(tmp_path, older)
    train(tracker, model, 8, 15)
    checkpoint(tracker, model, 15)
    tracker, model = continued(tmp_path, older)
    train(tracker, model, 8, 15, 0.5)
    newer = checkpoint(tracker, model, 15)
    train(tracker, model, 15, LAST, 0.5)
    expected = curves_of(tmp_path)
    tracker, model = continued(tmp_path, newer)
    train(tracker, model, 15, LAST, 0.5)
    assert curves_of(tmp_path) == expected and expected["previous", 20][0] == 10


def test_stitches_with_no_state_of_what_came_after(tmp_path: Path) -> None:
    """The state of step 10 is deleted where training continues from step 8."""
    model, folder = Wrapped(), tmp_path / "references"

    def tracker() -> PenaltyTracker:
        return PenaltyTracker("previous", lambda n: tokens(0, n, LENGTH), tmp_path, "net.*", every=5)

    first, second, older = tracker(), tracker(), {}
    for step in range(13):
        first.follow(model, step)
        older = copy.deepcopy(first.state_dict()) if step == 8 else older
    assert (folder / "weights-previous-10.safetensors").exists()
    second.load_state_dict(older)
    second.follow(model, 8)
    assert {file.stem for file in folder.glob("weights-previous-*")} == {"weights-previous-0", "weights-previous-5"}


@pytest.mark.parametrize(("gone", "ticks"), [(16, {26}), (10, {20}), (4, set())])
def test_a_state_that_is_gone_is_replaced_by_none(
    gone: int, ticks: set[int], whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick that compares it says so, also the last one; nothing is said of a state that no later tick compares."""
    tracker, model = tracker_in(tmp_path), net()
    train(tracker, model, 0, 18)
    tracker, model = continued(tmp_path, saved(tracker, model))
    for file in (tmp_path / "references").glob(f"previous-{gone}-*"):
        file.unlink()
    train(tracker, model, 18, LAST)
    expected, curves = curves_of(whole), curves_of(tmp_path)
    assert {key for key in expected if curves[key] != expected[key]} == {("previous", step) for step in ticks}
    for tick in ticks:
        step, value, note = curves["previous", tick]
        assert math.isnan(value) and step == gone and f"the model at step {gone} is gone" in note
    assert ("is gone" in caplog.text) == bool(ticks)


def test_a_second_training_remembers_nothing_of_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first one jumps at its end, and then the model is back where it began; its last rows could not be written."""

    def watching(folder: Path) -> Tracker:
        return tracker_in(folder, "init", every=2, alerts=["move", "collapse"])

    def training(tracker: Tracker) -> tuple[list[Any], list[str]]:
        caplog.clear()
        model, alerts = nn.Sequential(*net().children()), []
        with torch.no_grad():
            next(model[1].parameters())[1:] = 0
        for step in range(9):
            tracker.follow(model, step)
            alerts += tracker.alerts
            update(model, step, 2.0 if step == 7 else 0.001)
        return alerts, [message for message in caplog.messages if "step" in message]

    fresh, again = watching(tmp_path / "fresh"), watching(tmp_path / "again")
    train(again, net(5), 0, 9, 0.5)
    again.tables._outboxes["alerts"].waiting = [{"step": 8, "rule": "of the first training"}]
    again.budget.spent = 1e6
    expected, alerts = training(fresh), training(again)
    assert alerts == expected and expected[0]
    assert (tmp_path / "again" / "alerts.jsonl").read_text() == (tmp_path / "fresh" / "alerts.jsonl").read_text()
    assert again.budget.spent < 1e6


def test_a_reference_that_is_another_model_where_training_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, model = tracker_in(tmp_path, {"teacher": net(5), "other": net(6), "untrained": "untrained"}), net()
    train(tracker, model, 0, 4)
    checkpoint = saved(tracker, model)
    for seed, probe in ((5, PROBE), (7, PROBE), (7, PROBE.flip(0))):
        caplog.clear()
        references = {"teacher": net(seed), "other": net(6), "new": net(8), "untrained": "untrained"}
        tracker = Tracker(references, CKA(), probe, tmp_path, sites="1", every=EVERY, n_units=4)
        tracker.load_state_dict(checkpoint["tracker"])
        tracker.follow(model, 4)
        messages = [message.partition(" differs")[0] for message in caplog.messages if "differs" in message]
        expected = ["the probe set"] if probe is not PROBE else ["reference teacher"] if seed == 7 else []
        assert messages == expected


@pytest.mark.parametrize("step", [1, 3, 8])
def test_previous_alone_continues_in_the_dense_start(step: int, tmp_path: Path) -> None:
    """State 0 is ``previous`` of steps 1 and ``every``, whether or not it is ``init`` too."""
    train(tracker_in(tmp_path / "whole", "previous"), net(), 0, LAST)
    tracker, model = tracker_in(tmp_path, "previous"), net()
    train(tracker, model, 0, step)
    checkpoint = saved(tracker, model)
    tracker, model = tracker_in(tmp_path, "previous"), net()
    model.load_state_dict(checkpoint["model"])
    tracker.load_state_dict(checkpoint["tracker"])
    train(tracker, model, step, LAST)
    assert curves_of(tmp_path) == curves_of(tmp_path / "whole")


@pytest.mark.parametrize(("end", "last"), [(25, 35), (15, 25), (3, 6)])
def test_a_longer_training_compares_the_end_of_the_shorter_one(end: int, last: int, tmp_path: Path) -> None:
    def steps(tracker: Tracker, model: nn.Module, start: int, stop: int) -> None:
        for step in range(start, stop + 1):
            tracker.follow(model, step, stop)
            if step < stop:
                update(model, step)

    steps(tracker_in(tmp_path / "whole"), net(), 0, last)
    tracker, model = tracker_in(tmp_path), net()
    steps(tracker, model, 0, end)
    tracker, model = continued(tmp_path, saved(tracker, model))
    steps(tracker, model, end, last)
    got, expected = (curves_of(folder)["previous", last] for folder in (tmp_path, tmp_path / "whole"))
    assert got == expected and got[0] == end


def test_a_state_that_is_saved_before_anything_is_followed_is_that_which_was_loaded(
    whole: Path, tmp_path: Path
) -> None:
    tracker, model = tracker_in(tmp_path), net()
    train(tracker, model, 0, 14)
    tracker, model = continued(tmp_path, saved(tracker, model))
    tracker, model = continued(tmp_path, saved(tracker, model))
    for step in range(14, LAST):
        saved(tracker, model)
        train(tracker, model, step, step + 1)
    tracker.follow(model, LAST, LAST)
    assert curves_of(tmp_path) == curves_of(whole)


def test_another_model_at_step_0_and_an_earlier_state_begin_anew(whole: Path, tmp_path: Path) -> None:
    tracker, model = tracker_in(tmp_path), net()
    tracker.follow(net(9), 0, LAST)
    train(tracker, model, 0, 14)
    checkpoint = saved(tracker, model)
    train(tracker, model, 14, 19)
    model.load_state_dict(checkpoint["model"])
    tracker.load_state_dict(checkpoint["tracker"])
    train(tracker, model, 14, LAST)
    assert curves_of(tmp_path) == curves_of(whole)


@pytest.mark.parametrize("planned", [None, LAST])
@pytest.mark.parametrize(("end", "is_ended"), [(13, True), (20, True), (20, False)])
def test_a_continuation_may_end_where_it_begins(planned: int | None, end: int, is_ended: bool, tmp_path: Path) -> None:
    """Its last rows are those of a training that ended there, whether or not the first one knew that it would end."""

    def rows(folder: Path) -> list[dict[str, Any]]:
        at_end = [row for row in read_curves(folder).to_pylist() if row["step"] == end]
        return [{key: str(value) for key, value in row.items() if key != "seconds"} for row in at_end]

    model, tracker, whole = (
        net(),
        tracker_in(tmp_path, sites=["0", "1"]),
        tracker_in(tmp_path / "whole", sites=["0", "1"]),
    )
    for step in range(end):
        tracker.follow(model, step, planned)
        whole.follow(model, step, planned)
        update(model, step)
    for each in (whole, tracker):
        each.follow(model, end, planned)
        if is_ended or each is whole:
            each.follow(model, end, end)
    checkpoint = saved(tracker, model)
    tracker, model = continued(tmp_path, checkpoint, sites=["0", "1"])
    tracker.follow(model, end, planned)
    tracker.follow(model, end, end)
    assert rows(tmp_path) == rows(tmp_path / "whole") and len(rows(tmp_path)) >= 6
    tracker, model = continued(tmp_path, saved(tracker, model), sites=["0", "1"])
    tracker.follow(model, end, end)
    assert rows(tmp_path) == rows(tmp_path / "whole")


def test_rows_of_an_end_do_not_move_the_next_heat_map(tmp_path: Path) -> None:
    """Step 13 passed 12, the next multiple, and its rows go when the training continues."""

    def sizes(folder: Path) -> dict[int, int]:
        steps = [row["step"] for row in read_curves(folder).to_pylist()]
        return {step: steps.count(step) for step in steps}

    choices: dict[str, Any] = {"references": "init", "sites": ["0", "1"], "heatmap_every": 12}
    train(tracker_in(tmp_path / "whole", **choices), net(), 0, LAST)
    tracker, model = tracker_in(tmp_path, **choices), net()
    train(tracker, model, 0, 13)
    tracker.follow(model, 13, 13)
    tracker, model = continued(tmp_path, saved(tracker, model), **choices)
    train(tracker, model, 13, LAST)
    assert sizes(tmp_path) == sizes(tmp_path / "whole") and sizes(tmp_path)[20] == 4


def test_alerts_of_an_end_do_not_replace_those_of_the_next_tick(tmp_path: Path) -> None:
    """The model moves just before step 13, whose rows and alerts go when the training continues."""

    def steps(tracker: Tracker, model: nn.Module, start: int, stop: int) -> None:
        for step in range(start, stop):
            tracker.follow(model, step, LAST)
            update(model, step, 2.0 if step == 12 else 0.001)

    choices: dict[str, Any] = {"references": "init", "alerts": ["move"]}
    steps(tracker_in(tmp_path / "whole", **choices), net(), 0, 21)
    tracker, model = tracker_in(tmp_path, **choices), net()
    steps(tracker, model, 0, 13)
    tracker.follow(model, 13, 13)
    assert [alert.step for alert in tracker.alerts] == [13]
    tracker, model = continued(tmp_path, saved(tracker, model), **choices)
    steps(tracker, model, 13, 21)
    alerts, expected = ((folder / "alerts.jsonl").read_text() for folder in (tmp_path, tmp_path / "whole"))
    assert alerts == expected and '"step": 20' in expected


def test_states_before_a_checkpoint_without_the_tracker_are_lost(whole: Path, tmp_path: Path) -> None:
    """No tick where a state is only remembered, and no other state in the place of a lost one."""
    tracker, model = tracker_in(tmp_path, "previous"), net()
    for step in range(16):
        update(model, step)
    train(tracker, model, 16, LAST)
    curves = curves_of(tmp_path)
    assert curves.keys() == {("previous", 20), ("previous", LAST)}
    step, value, note = curves["previous", 20]
    assert step == 10 and math.isnan(value) and "the model at step 10 is gone" in note
    assert curves["previous", LAST] == curves_of(whole)["previous", LAST]


def test_a_state_that_cannot_be_saved_says_what_could_replace_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop has no such checkpoint, and nothing says that it has one."""

    def full(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(reference_store, "save_chunks", full)
    tracker_in(tmp_path, "init").follow(net(), 0)
    checkpoint = tmp_path / "checkpoints" / "step_0000000.ckpt"
    assert caplog.messages == [
        f"could not save the activations of step 0 (no space left); a continuation needs {checkpoint} instead"
    ]


def test_a_state_that_is_later_than_the_model_leaves_no_step_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, model = tracker_in(tmp_path), net()
    train(tracker, model, 0, 5)
    weights = copy.deepcopy(model.state_dict())
    train(tracker, model, 5, 12)
    other, model = continued(tmp_path, {"model": weights, "tracker": tracker.state_dict()})
    train(other, model, 5, LAST)
    steps = sorted({row["step"] for row in read_curves(tmp_path).to_pylist()})
    assert steps == [0, 1, 2, 4, 8, 10, 20, LAST]
    assert "step 5: the tracker state is from step 10 or later" in caplog.text
