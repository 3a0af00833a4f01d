"""When to track and to save: one schedule, shared by the tracker and the checkpoints.

Dense where models change fast and even afterwards, as Pythia saved its checkpoints: 0, 1, 2, 4, ... up to
``every``, then each multiple of ``every``, and the last step.
"""

import math

import pytorch_lightning as pl


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


def last_step(trainer: pl.Trainer) -> int | None:
    """The step at which training ends, or None where that is not known."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None


def progress(every: int, step: int, last: int | None) -> float:
    """The share of the ticks after step 0 that was due before this one; 1 for the last one, or where none is known."""
    if last is None or step == last:
        return 1.0
    return (len(ticks(every, step)) - 2) / max(1, len(ticks(every, last)) - 2)
