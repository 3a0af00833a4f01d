"""The schedule of one training, thinned once if a budget does not pay for all of it, and kept by every continuation."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from dissimilarity.moments.agreement import gathered
from dissimilarity.tables.files import replacing
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.schedule import Thinned
from dissimilarity.tracking.training_state import TrainingState

log = logging.getLogger(__name__)


class Thinning:
    """What a budget leaves of a schedule.

    The cost of a tick is known when the dense start is over. What follows from it is written to a file at once, so that
    a continuation from any checkpoint has the same ticks.

    Args:
        path: the file.
        budget: what the ticks cost, and their limit.
        every: distance between ticks of the even part.
        heatmap_every: steps between ticks with all pairs of sites; None if there are none.

    Attributes:
        thinned: the schedule from a step on; None without a limit, or while the cost is not known.
    """

    def __init__(self, path: Path, budget: Budget, every: int, heatmap_every: int | None = None) -> None:
        self.path, self.budget, self.every, self.heatmap_every = path, budget, every, heatmap_every
        self.thinned: Thinned | None = None

    def begin(self, training: TrainingState) -> None:
        """Forget the schedule of another training in this folder, or read that of this one."""
        self.thinned = None
        if self.budget.share is None:
            return
        if training.is_first and not training.step:
            self.path.unlink(missing_ok=True)
        self.thinned = gathered(self._read() if training.is_first else None, training.sync)[0]

    def after_tick(self, training: TrainingState) -> None:
        """Fix the schedule, if this tick was the first one after the dense start."""
        if self.budget.share is None or self.thinned is not None or training.step < self.every:
            return
        distance = self.budget.distance(self.every, training.step, training.last_step, self.heatmap_every)
        self.thinned = thinned = gathered(Thinned(training.step, distance), training.sync)[0]
        if not training.is_first:
            return
        if thinned.every > self.every:
            log.warning(
                "tracking took %.1f%% of the time so far and the budget is %.1f%%: after step %d, it measures every "
                "%d steps and at the end; a larger budget measures more often, and None always",
                *(100 * self.budget.taken, 100 * self.budget.share, thinned.after, thinned.every),
            )
        try:
            with replacing(self.path) as part:
                part.write_text(json.dumps({**asdict(thinned), "budget": self.budget.share}) + "\n")
        except OSError as error:
            log.warning("could not write %s (%s); a continuation may have other ticks", self.path, error)

    def _read(self) -> Thinned | None:
        """Return what the file says; None if there is none, or it says nothing of the kind."""
        try:
            entry = json.loads(self.path.read_bytes())
            after, every = entry["after"], entry["every"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        is_number = type(after) is int and type(every) is int
        return Thinned(after, every) if is_number and after >= 0 and every > 0 else None
