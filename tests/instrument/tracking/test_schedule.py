"""The schedule of ticks, the fixed lag of ``previous``, and what a budget leaves of both."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from torch import nn

from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.schedule import (
    EVENLY,
    Thinned,
    is_due,
    is_previous_of_a_tick,
    kept_steps,
    previous_step,
    ticks,
)
from dissimilarity.tracking.thinning import Thinning
from dissimilarity.tracking.training_state import TrainingState


def test_pythias_schedule() -> None:
    """With every=1000 these are the steps at which Pythia saved."""
    assert ticks(1000, 3000) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000]


def test_the_last_step_is_always_due() -> None:
    assert ticks(50, 137) == [0, 1, 2, 4, 8, 16, 32, 50, 100, 137]
    assert not is_due(137, 50)
    assert is_due(137, 50, 137, Thinned(after=50, every=100)) and not is_due(150, 50, 200, Thinned(50, 100))


@pytest.mark.parametrize("thinned", [None, Thinned(after=50, every=150)])
def test_what_previous_needs_is_kept_whatever_is_measured(thinned: Thinned | None) -> None:
    due = [step for step in range(1, 438) if is_due(step, 50, 437, thinned)]
    expected = {previous_step(step, 50) for step in due}
    assert {step for step in range(438) if is_previous_of_a_tick(step, 50, 437, thinned)} == expected
    assert 387 in expected and (100 in expected) == (thinned is not None or 150 in due)


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("dissimilarity.tracking.budget.time.monotonic", lambda: self.now)


def trained(step: int, last: int | None) -> TrainingState:
    return TrainingState(nn.Identity(), step, last)


@pytest.mark.parametrize(("step_seconds", "tick_seconds"), [(1.0, 0.5), (0.1, 0.1), (0.01, 1.0), (1.0, 30.0)])
@pytest.mark.parametrize("share", [0.03, 0.3, 1.0])
def test_what_a_budget_pays_for_is_evenly_spread_and_has_the_last_tick(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step_seconds: float, tick_seconds: float, share: float
) -> None:
    clock, last, ran = Clock(monkeypatch), 2000, []
    budget = Budget(share)
    schedule = Thinning(tmp_path / "schedule.json", budget, every=50)
    budget.begin(0)
    schedule.begin(trained(0, last))
    for step in range(last + 1):
        if is_due(step, 50, last, schedule.thinned):
            with budget.charged("plain"):
                clock.now += tick_seconds
            ran.append(step)
            schedule.after_tick(trained(step, last))
        clock.now += step_seconds
    late = [step for step in ran if step >= 50]
    assert ran[:8] == [0, 1, 2, 4, 8, 16, 32, 50] and ran[-1] == last
    inner = [after - before for before, after in pairwise(late[1:-1])]
    assert len(set(inner)) <= 1
    unavoidable = 9 * tick_seconds
    assert budget.spent <= max(share * last * step_seconds, unavoidable) + 1e-9
    if share * last * step_seconds > 60 * tick_seconds:
        assert ran == ticks(50, last), "the budget pays for every tick"
    continuation = Thinning(tmp_path / "schedule.json", Budget(share), every=50)
    continuation.begin(trained(400, last))
    assert continuation.thinned == schedule.thinned
    continuation.begin(trained(0, last))
    assert continuation.thinned is None and not (tmp_path / "schedule.json").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"after": true, "every": 2}', '{"after": 5, "every": 0}', "[" * 10**5]
)
def test_a_damaged_schedule_is_fixed_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(text)
    schedule = Thinning(path, Budget(0.5), every=10)
    schedule.begin(trained(10, 100))
    assert schedule.thinned is None
    schedule.after_tick(trained(10, 100))
    assert json.loads(path.read_text())["after"] == 10


def test_heat_maps_and_figures_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def distance(closing: float, heatmap_every: int | None) -> int:
        budget = Budget(0.1, closing)
        budget.begin(0)
        clock.now += 100  # 100 steps of 1 s: of 1,000 steps, 100 s are for tracking
        for kind, seconds in (("plain", 5.0), ("heatmap", 15.0)):
            with budget.charged(kind):
                clock.now += seconds
        return budget.distance(50, 100, 1000, heatmap_every)

    assert distance(0.0, None) == 100  # 65 s for ticks of 5 s
    assert distance(30.0, None) == 150
    assert distance(1e6, None) == 300, "at most half of the allowance"
    assert distance(0.0, 250) == 200


def test_a_continuation_keeps_the_time_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Budget(0.1)
    first.begin(0)
    clock.now += 90
    with first.charged("plain"):
        clock.now += 10
    second = Budget(0.1)
    second.load_state_dict(first.state_dict())
    clock.now += 1000
    second.begin(100)
    assert second.trained == pytest.approx(90)
    assert second.taken == pytest.approx(0.1)


def test_paused_time_is_neither_training_nor_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(0.1)
    budget.begin(0)
    clock.now += 90
    with budget.charged("plain"):
        clock.now += 10
    with budget.paused():
        clock.now += 500
    assert (budget.trained, budget.taken) == pytest.approx((90, 0.1))


def test_thinning_checkpoints_ends_with_the_same_ones_however_often_it_runs() -> None:
    for every, last in [(1, 400), (50, 800), (10, 4321), (7, 100)]:
        saved: set[int] = set()
        for step in ticks(every, last):
            before = saved | {step}
            saved = kept_steps(before, every, "every")
            assert saved <= before and {0, step} <= saved
        assert saved == kept_steps(ticks(every, last), every, "every")
        even = sorted(step for step in saved if step % every == 0 and step & (step - 1))
        assert len(even) <= EVENLY + 1
        assert len(saved) <= EVENLY + 2 + last.bit_length()
    assert kept_steps(ticks(50, 800), 50, "every") == set(ticks(50, 800))


def test_other_choices_of_what_to_keep() -> None:
    steps = ticks(4, 30)
    assert kept_steps(steps, 4, "all") == set(steps)
    assert kept_steps(steps, 4, "last") == {0, 30}
    assert kept_steps([], 4, "last") == set()
