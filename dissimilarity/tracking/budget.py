"""How much of the training time tracking takes, and how many ticks a limit on it pays for."""

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dissimilarity.probe.arguments import is_real


class Budget:
    """A limit on the share of the training time that tracking takes.

    Args:
        share: maximum share of the training time for tracking; None for no limit.
        closing: seconds reserved for tables and figures at the end; at most half of the allowance.

    Attributes:
        spent: seconds of tracking so far, over all sessions of a training.

    Examples:
        >>> Budget(0.03).distance(50, step=50, last=800)
        50
    """

    def __init__(self, share: float | None, closing: float = 0.0) -> None:
        if share is not None and not (is_real(share) and 0 < share <= 1):
            raise ValueError(
                f"expected 0 < budget <= 1, a share of the training time, or None for no limit, found {share!r}"
            )
        self.share, self.closing = share, closing
        self.spent = 0.0
        self._costs: dict[str, deque[float]] = {}
        self._before = 0.0
        self._start = time.monotonic()
        self._spent_at_start = 0.0

    def begin(self, step: int) -> None:
        """Start the clock of a session; at step 0, that of a training."""
        if not step:
            self.spent = self._before = 0.0
            self._costs.clear()
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

    def distance(self, every: int, step: int, last: int | None, heatmap_every: int | None = None) -> int:
        """Return the distance between ticks that the limit pays for, a multiple of `every`.

        Args:
            every: distance between the ticks of the even part.
            step: number of updates so far, at least one tick after step 0.
            last: step at which training ends, or None.
            heatmap_every: steps between ticks that cost as much as those of the kind `heatmap`; None if there are none.
        """
        assert self.share is not None
        cost = {kind: statistics.median(seconds) for kind, seconds in self._costs.items()}
        plain = cost.get("plain", max(cost.values(), default=0.0))
        heatmap = cost.get("heatmap", plain)
        end = step + 1000 * every if last is None else last
        total = self.share * self.trained * end / step
        # at most half, because figures without ticks are useless
        left = total - min(self.closing, total / 2) - self.spent - heatmap
        maps = 0 if heatmap_every is None else end // heatmap_every - step // heatmap_every
        for factor in range(1, max(2, math.ceil(end / every))):
            ticks = end // (factor * every) - step // (factor * every)
            if ticks * plain + min(maps, ticks) * max(0.0, heatmap - plain) <= left:
                return factor * every
        return max(2, math.ceil(end / every)) * every

    @contextmanager
    def charged(self, kind: str | None = None) -> Iterator[None]:
        """Count the time of the block as tracking, and as the cost of a tick of this kind."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self.spent += seconds
            if kind is not None:
                # several, because another process may delay one of them
                self._costs.setdefault(kind, deque(maxlen=5)).append(seconds)

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
        return {"spent": self.spent, "trained": self.trained, "costs": costs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.spent, self._before = state["spent"], state["trained"]
        self._start, self._spent_at_start = time.monotonic(), self.spent
        self._costs = {kind: deque(seconds, maxlen=5) for kind, seconds in state["costs"].items()}
