"""The tables of a tracked run, written by its first process: curves, first components, and what is made of them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.figures.run import draw_run
from dissimilarity.tables.curves import FIRST_COMPONENTS, Curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking import reference_groups as grouped
from dissimilarity.tracking.outbox import Outbox
from dissimilarity.tracking.records import described

log = logging.getLogger(__name__)


class Tables:
    """Takes the rows of each tick. Nothing that fails here is lost, where it was rows, or ends the training.

    Args:
        folder: the run's.
        groups: labels of references by group.
    """

    def __init__(self, folder: Path, groups: Mapping[str, Sequence[str]]) -> None:
        self.folder, self.groups = folder, groups
        self.curves, self._components = Curves(folder), Journal(folder / FIRST_COMPONENTS)
        self._outboxes = {
            "curves": Outbox(self.curves.append, "curves"),
            "components": Outbox(self._components.append, "first components"),
        }

    def begin(self, step: int) -> None:
        """Drop the rows after a step, which a continuation measures again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.curves.truncate(step)
        self._components.truncate(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that could not be written yet."""
        return {name: outbox.waiting for name, outbox in self._outboxes.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, rows in state.items():
            self._outboxes[name].waiting = rows

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of a tick."""
        self._outboxes["curves"].send(rows)

    def add_components(self, step: int, sides: Sequence[tuple[str, ModelActivations, ModelActivations]]) -> None:
        """Take the share of each site's variance in its first principal component.

        Args:
            step: of the tick.
            sides: label of a reference, the model, and the reference.
        """
        try:
            rows = [
                {"step": step, "reference": label, "of": of, "site": site, "share": share}
                for label, model, reference in sides
                for of, taken in (("model", model), ("reference", reference))
                for site, share in taken.first_components.items()
            ]
        except Exception as error:
            log.warning("step %d, no first components: %s", step, described(error))
        else:
            self._outboxes["components"].send(rows)

    def fold(self, if_grown: bool = False) -> bool:
        """Bring the tables up to the rows so far, and return whether that went well.

        Args:
            if_grown: fold only where there are enough new rows, so that the cost follows the rows of the run.
        """
        for outbox in self._outboxes.values():
            outbox.send()
        try:
            if if_grown and not self.curves.fold_if_grown():
                return True
            if not if_grown:
                self.curves.fold()
            grouped.fold(self.folder, self.groups)
        except Exception as error:
            log.warning("%s could not be brought up to date: %s", self.folder, described(error))
            return False
        return True

    def draw(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Return the figures of the run, drawn now, and all rows; neither where the tables can't be read."""
        if not self.fold():
            return [], []
        try:
            return draw_run(self.folder, formats=["png"]), self.curves.rows()
        except Exception as error:
            log.warning("no figures in %s: %s", self.folder, described(error))
            return [], []
