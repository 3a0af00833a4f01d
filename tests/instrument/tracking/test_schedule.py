"""The schedule of ticks and their budget."""

import pytest

from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.schedule import EVENLY, is_due, kept_steps, ticks


def test_pythias_schedule() -> None:
    """With every=1000 these are the steps at which Pythia saved."""
    assert ticks(1000, 3000) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000]


def test_the_last_step_is_always_due() -> None:
    assert ticks(50, 137) == [0, 1, 2, 4, 8, 16, 32, 50, 100, 137]
    assert not is_due(137, 50)


def due_before(step: int, due: list[int]) -> float:
    """Return the share of the ticks after step 0 that come before this one, as the tracker counts them."""
    return (due.index(step) - 1) / (len(due) - 2)


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("dissimilarity.tracking.budget.time.monotonic", lambda: self.now)


@pytest.mark.parametrize(("step_seconds", "tick_seconds"), [(1.0, 0.5), (0.1, 0.1), (0.01, 1.0), (1.0, 30.0)])
@pytest.mark.parametrize("share", [0.03, 0.3])
def test_ticks_never_take_more_than_their_share(
    monkeypatch: pytest.MonkeyPatch, step_seconds: float, tick_seconds: float, share: float
) -> None:
    clock = Clock(monkeypatch)
    budget, last, ran = Budget(share), 500, []
    budget.begin()
    due = ticks(50, last)
    for step in range(last + 1):
        if step in due and budget.allows("plain", step, last, due_before(step, due)):
            with budget.charged("plain"):
                clock.now += tick_seconds
            ran.append(step)
        clock.now += step_seconds
    unavoidable = 2 * tick_seconds  # steps 0 and 1, before any cost is known
    assert budget.spent <= max(share * last * step_seconds, unavoidable) + 1e-9
    if share * last * step_seconds > 3 * tick_seconds:
        assert last in ran, "nobody wants to miss the last tick"
        assert len(ran) >= min(len(due), int(share * last * step_seconds / tick_seconds) - 2)


def test_one_slow_tick_does_not_forbid_all_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget, ran = Budget(0.1), []
    budget.begin()
    for step in range(101):
        if step % 10 == 0 and budget.allows("plain", step, 100, step / 100):
            with budget.charged("plain"):
                clock.now += 3.0 if step == 30 else 0.1
            ran.append(step)
        clock.now += 1.0
    assert {60, 70, 80, 90, 100} <= set(ran) and budget.spent <= 0.1 * 100


def test_the_budget_covers_what_comes_after_the_last_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(0.1, closing=4.0)
    budget.begin()
    for step in range(101):
        if budget.allows("plain", step, 100, step / 100):
            with budget.charged("plain"):
                clock.now += 0.5
        clock.now += 1.0
    with budget.charged():
        clock.now += 4.0
    assert 8 <= budget.spent <= 0.1 * 101


def test_figures_that_cost_more_than_the_allowance_leave_half_of_it_to_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(0.1, closing=60.0)
    budget.begin()
    clock.now += 100
    assert budget.allows("plain", 100, 100, 1.0)
    with budget.charged("plain"):
        clock.now += 6.0
    assert not budget.allows("plain", 100, 100, 1.0)


def test_a_full_budget_allows_every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(1.0)
    budget.begin()
    for step in range(100):
        assert budget.allows("plain", step, 100, step / 100)
        with budget.charged("plain"):
            clock.now += 50


def test_a_continuation_keeps_the_time_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Budget(0.1)
    first.begin()
    clock.now += 90
    with first.charged("plain"):
        clock.now += 10
    second = Budget(0.1)
    second.load_state_dict(first.state_dict())
    clock.now += 1000
    second.begin()
    assert second.trained == pytest.approx(90)
    assert second.taken == pytest.approx(0.1)


def test_paused_time_is_neither_training_nor_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(0.1)
    budget.begin()
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
