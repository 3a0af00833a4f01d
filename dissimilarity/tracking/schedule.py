"""When to track and to save: one schedule, shared by the tracker and the checkpoints.

Dense where models change fast and even afterwards, as Pythia saved its checkpoints: 0, 1, 2, 4, ... up to
``every``, then each multiple of ``every``, and the last step.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as pl

KEEP = ("all", "every", "last")
PINNED = ".pinned"
"""Suffix of a mark beside a file of weights that another run was begun with and reads whenever it goes on."""
EVENLY = 32
"""Most checkpoints of the even part that `every` keeps."""


def is_due(step: int, every: int, last: int | None = None) -> bool:
    """Whether something happens after ``step`` updates.

    Args:
        step: updates done, from 0.
        every: distance of the even part; powers of two below it form the dense start.
        last: the step at which training ends, which is always due; None if not known.
    """
    power_of_two = step & (step - 1) == 0
    return step % every == 0 or (step < every and power_of_two) or step == last


def ticks(every: int, last: int) -> list[int]:
    """All due steps from 0 to ``last``, ascending."""
    return [step for step in range(last + 1) if is_due(step, every, last)]


def kept_steps(steps: Iterable[int], every: int, keep: str) -> set[int]:
    """Which of the steps that were saved so far stay.

    Step 0, where the model began, and the newest one always do. What stays at a step is a part of what stayed before,
    so that a run ends with the same files however often it was interrupted.

    Args:
        steps: saved so far.
        every: distance of the schedule's even part.
        keep: ``all``; ``every``: powers of two, and of the multiples of ``every`` at most `EVENLY`, evenly: where there
            are more, each second one goes; ``last``: no others.
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


def last_step(trainer: "pl.Trainer") -> int | None:
    """The step at which training ends, or None where that is not known."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None


def progress(every: int, step: int, last: int | None) -> float:
    """The share of the ticks after step 0 that was due before this one; 1 for the last one, or where none is known."""
    if last is None or step == last:
        return 1.0
    return (len(ticks(every, step)) - 2) / max(1, len(ticks(every, last)) - 2)
