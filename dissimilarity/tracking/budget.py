"""How much of the training time tracking may take."""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Budget:
    """Keeps the time spent on tracking below a share of the training time, evenly over the ticks.

    The whole training time is projected from the steps done so far, so that the dense early ticks need not wait until
    the run has earned them. Where the number of steps is not known, the time that has passed counts.

    Args:
        share: most of the training time that tracking may take; 1 or more never refuses.
        closing: seconds kept for what comes after the last tick, table and figures; half of the allowance at most.

    Attributes:
        spent: seconds of tracking so far, over all sessions of a run.
    """

    def __init__(self, share: float, closing: float = 0.0) -> None:
        self.share = share
        self.closing = closing
        self.spent = 0.0
        self._costs: dict[str, deque[float]] = {}
        self._spent_first: float | None = None
        self._before = 0.0
        self._start = time.monotonic()
        self._spent_at_start = 0.0
        self._steps_before = 0

    def begin(self, step: int) -> None:
        """Starts the clock of a session at ``step`` updates."""
        self._start = time.monotonic()
        self._spent_at_start = self.spent
        self._steps_before = step

    @property
    def trained(self) -> float:
        """Seconds of training so far, tracking left out, over all sessions."""
        return self._before + time.monotonic() - self._start - (self.spent - self._spent_at_start)

    @property
    def taken(self) -> float:
        """The share that tracking took so far: tracking over training with tracking."""
        total = self.trained + self.spent
        return self.spent / total if total > 0 else 0.0

    def allows(self, kind: str, step: int, last: int | None, progress: float, parts: int = 1) -> bool:
        """Whether a tick may run now.

        The first tick after step 0 runs; of those that follow as many, at equal distances, as the allowance pays for.

        Args:
            kind: ticks of one kind cost alike; the next one is expected to take the median of the last five.
            step: updates done.
            last: the step at which training ends, or None.
            progress: the share of all ticks after step 0 that was due before this one, 0 to 1; 1 for the last one.
            parts: what a tick of this kind costs grows with them.
        """
        if self.share >= 1 or step < 1:
            return True
        first = self._spent_first = self.spent if self._spent_first is None else self._spent_first
        whole = self.share * self.trained * (last / step if last else 1.0)
        # half at most: figures of nothing are worth nothing
        allowed = whole - min(self.closing, whole / 2)
        costs = {known: parts * statistics.median(seconds) for known, seconds in self._costs.items()}
        # What has not run yet is what has fewer pairs of sites than step 0, and nothing to do for a first time.
        cost = costs.get(kind, max(costs.values(), default=0.0) / 2)
        if progress == 1:
            return self.spent + cost <= allowed
        reserve = costs.get("heatmap", cost)  # the last tick's, which is to have all pairs
        due = (allowed - first - reserve) * progress
        return self.spent - first <= due and self.spent + cost + reserve <= allowed

    @contextmanager
    def charged(self, kind: str | None = None, parts: int = 1) -> Iterator[None]:
        """Counts the time of the block as tracking, and as what a tick of this kind costs for so many parts."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self.spent += seconds
            if kind is not None:
                # not the newest alone: one tick that another process held up would forbid all that follow
                self._costs.setdefault(kind, deque(maxlen=5)).append(seconds / parts)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Counts the time of the block neither as tracking nor as training."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - start

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, for a checkpoint."""
        costs = {kind: list(seconds) for kind, seconds in self._costs.items()}
        return {"spent": self.spent, "first": self._spent_first, "trained": self.trained, "costs": costs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.spent, self._spent_first, self._before = state["spent"], state["first"], state["trained"]
        self._costs = {kind: deque(seconds, maxlen=5) for kind, seconds in state["costs"].items()}
