"""How much of the training time tracking may take."""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Budget:
    """A limit on the share of the training time that tracking takes, spent evenly over the ticks.

    The whole training time is projected from the steps so far, so that the dense early ticks need not wait until the
    training has earned them. If the number of steps is unknown, the time so far counts.

    Args:
        share: maximum share of the training time for tracking; 1 skips no tick.
        closing: seconds reserved for table and figures after the last tick; at most half of the allowance.

    Attributes:
        spent: seconds of tracking so far, over all sessions of a training.

    Example:
        >>> Budget(0.03).allows("plain", step=0, last=100, progress=0.0)
        True
    """

    def __init__(self, share: float, closing: float = 0.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"expected 0 < budget <= 1, a share of the training time, found {share}; 1 skips no tick")
        self.share = share
        self.closing = closing
        self.spent = 0.0
        self._costs: dict[str, deque[float]] = {}
        self._spent_first: float | None = None
        self._before = 0.0
        self._start = time.monotonic()
        self._spent_at_start = 0.0

    def begin(self) -> None:
        """Start the clock of a session."""
        self._start = time.monotonic()
        self._spent_at_start = self.spent

    @property
    def trained(self) -> float:
        """Seconds of training so far, without tracking, over all sessions."""
        return self._before + time.monotonic() - self._start - (self.spent - self._spent_at_start)

    @property
    def taken(self) -> float:
        """Share of the time so far that tracking took."""
        total = self.trained + self.spent
        return self.spent / total if total > 0 else 0.0

    def allows(self, kind: str, step: int, last: int | None, progress: float, parts: int = 1) -> bool:
        """Return whether a tick may run now.

        The first tick after step 0 always runs. As many later ones run, evenly spaced, as the allowance pays for.

        Args:
            kind: kind of tick; ticks of one kind cost about the same, and the next one is expected to take the median
                of the last five.
            step: number of updates.
            last: step at which training ends, or None.
            progress: share of the ticks after step 0 that came before this one, 0 to 1; 1 for the last one.
            parts: number of parts, to which the cost of a tick is proportional.
        """
        if self.share >= 1 or step < 1:
            return True
        first = self._spent_first = self.spent if self._spent_first is None else self._spent_first
        total = self.share * self.trained * (last / step if last else 1.0)
        # at most half, because figures without ticks are useless
        allowed = total - min(self.closing, total / 2)
        costs = {name: parts * statistics.median(seconds) for name, seconds in self._costs.items()}
        # A kind that has not run yet has fewer pairs of sites than step 0, and nothing to do for the first time.
        cost = costs.get(kind, max(costs.values(), default=0.0) / 2)
        if progress == 1:
            return self.spent + cost <= allowed
        reserve = costs.get("heatmap", cost)  # for the last tick, which has all pairs
        due = (allowed - first - reserve) * progress
        return self.spent - first <= due and self.spent + cost + reserve <= allowed

    @contextmanager
    def charged(self, kind: str | None = None, parts: int = 1) -> Iterator[None]:
        """Count the time of the block as tracking, and as the cost of a tick of this kind with `parts` parts."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self.spent += seconds
            if kind is not None:
                # several, because one tick that another process delays would forbid all later ones
                self._costs.setdefault(kind, deque(maxlen=5)).append(seconds / parts)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count the time of the block neither as tracking nor as training."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - start

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far, for a checkpoint."""
        costs = {kind: list(seconds) for kind, seconds in self._costs.items()}
        return {"spent": self.spent, "first": self._spent_first, "trained": self.trained, "costs": costs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.spent, self._spent_first, self._before = state["spent"], state["first"], state["trained"]
        self._costs = {kind: deque(seconds, maxlen=5) for kind, seconds in state["costs"].items()}
