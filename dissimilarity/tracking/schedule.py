"""When to track and to save: one schedule, shared by the tracker and the checkpoints.

It is dense where models change fast and even afterwards, like the checkpoints of Pythia: 0, 1, 2, 4, ... up to
``every``, then each multiple of ``every``, and the last step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dissimilarity.probe.arguments import whole

KEEP = ("all", "every", "last")
PINNED = ".pinned"
"""Suffix of a mark beside a file of weights that another run started with and reads whenever it continues."""
EVENLY = 32
"""Largest number of checkpoints of the even part that `every` keeps."""


@dataclass(frozen=True)
class Thinned:
    """A schedule with fewer ticks after a step.

    Attributes:
        after: the step after which it counts.
        every: distance between ticks; only these and the last step are due.
    """

    after: int
    every: int


def is_due(step: int, every: int, last: int | None = None, thinned: Thinned | None = None) -> bool:
    """Return whether ``step`` is on the schedule.

    Args:
        step: number of updates, from 0.
        every: distance between steps of the even part; powers of two below it are the dense start.
        last: step at which training ends, which is always due; None if unknown.
        thinned: what replaces the even part, if a budget does not pay for all of it.

    Examples:
        >>> [step for step in range(30) if is_due(step, every=10, last=25)]
        [0, 1, 2, 4, 8, 10, 20, 25]
        >>> [step for step in range(66) if is_due(step, every=10, last=65, thinned=Thinned(after=10, every=30))]
        [0, 1, 2, 4, 8, 10, 30, 60, 65]
    """
    if thinned is not None and step > thinned.after:
        return step % thinned.every == 0 or step == last
    power_of_two = step & (step - 1) == 0
    return step % every == 0 or (step < every and power_of_two) or step == last


def check_distance(**steps: Any) -> None:
    """Check distances between ticks, by the names of their arguments.

    Raises:
        ValueError: one of them is no whole number, or less than 1.

    Examples:
        >>> check_distance(every=0)
        Traceback (most recent call last):
        ValueError: expected every >= 1, a number of steps, found 0
    """
    for name, distance in steps.items():
        whole(name, distance, of="a number of steps")


def ticks(every: int, last: int) -> list[int]:
    """Return all steps of the schedule from 0 to ``last``, ascending.

    Examples:
        >>> ticks(10, 25)
        [0, 1, 2, 4, 8, 10, 20, 25]
    """
    return [step for step in range(last + 1) if is_due(step, every, last)]


def kept_steps(steps: Iterable[int], every: int, keep: str) -> set[int]:
    """Return which of the steps saved so far stay.

    Step 0 and the newest one always stay. What stays after a step is a subset of what stayed before it, so that a run
    ends with the same files no matter how often it was interrupted.

    Args:
        steps: steps saved so far.
        every: distance between steps of the schedule's even part.
        keep: ``all``; ``every``: powers of two, and at most `EVENLY` multiples of ``every``, evenly spaced: when there
            are more, every second one goes; ``last``: no others.

    Examples:
        >>> sorted(kept_steps(ticks(4, 12), every=4, keep="last"))
        [0, 12]
    """
    saved = set(steps)
    if keep == "all" or not saved:
        return saved
    ends = {0, max(saved)}
    if keep == "last":
        return saved & ends
    distance = every
    while max(saved) // distance > EVENLY:
        distance *= 2
    return {step for step in saved if step in ends or step & (step - 1) == 0 or step % distance == 0}


def previous_step(step: int, every: int) -> int:
    """Return the step of ``previous`` at a tick: half of its step in the dense start, and ``every`` less after it.

    Examples:
        >>> [previous_step(step, every=10) for step in (1, 2, 4, 8, 10, 20, 25)]
        [0, 1, 2, 4, 0, 10, 15]
    """
    return step // 2 if step < every else step - every


def previous_steps(first: int, every: int, last: int | None = None, thinned: Thinned | None = None) -> set[int]:
    """Return the steps of ``previous`` at the ticks from a step on, as far as they are before that step.

    Examples:
        >>> previous_steps(5, every=10), previous_steps(9, every=10), previous_steps(13, every=10, last=25)
        ({0, 4}, {0}, {10})
    """
    ticks_from = (tick for tick in range(first, first + every) if is_due(tick, every, last, thinned))
    return {step for tick in ticks_from if (step := previous_step(tick, every)) < first}


def is_previous_of_a_tick(step: int, every: int, last: int | None = None, thinned: Thinned | None = None) -> bool:
    """Return whether the model at ``step`` is the ``previous`` of a later tick.

    Examples:
        >>> [step for step in range(26) if is_previous_of_a_tick(step, every=10, last=25)]
        [0, 1, 2, 4, 10, 15]
    """
    later = {2 * step, 2 * step + 1, step + every} - {step}
    return any(
        previous_step(tick, every) == step and (last is None or tick <= last) and is_due(tick, every, last, thinned)
        for tick in later
    )
