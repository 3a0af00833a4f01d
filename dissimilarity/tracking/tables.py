"""The tables of a tracked training, written by its first process, and what shows them: figures and the page."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dissimilarity.figures.options import FigureOptions
from dissimilarity.figures.run import draw_run
from dissimilarity.report import page
from dissimilarity.tables.curves import ALERTS, INTRINSIC, Curves, read_curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking import reference_groups as groups_of_references
from dissimilarity.tracking.alerts import Alert
from dissimilarity.tracking.outbox import Outbox
from dissimilarity.tracking.records import described
from dissimilarity.tracking.restored import restored

PAGE_SHARE = 0.01
"""Largest share of the time between two heat maps that the page of the folder may take."""

log = logging.getLogger(__name__)


class Tables:
    """The tables of one training. A fault in them loses no records and does not end the training.

    Args:
        folder: folder of the tables.
        groups: labels of references by group.
        figures: which files and colors figures have.
    """

    def __init__(self, folder: Path, groups: Mapping[str, Sequence[str]], figures: FigureOptions) -> None:
        self.folder, self.groups, self.figures = folder, groups, figures
        self.curves, self._intrinsic = Curves(folder), Journal(folder / INTRINSIC)
        self._alerts = Journal(folder / ALERTS)
        self._page_due = 0.0
        self._outboxes = {
            "curves": Outbox(self.curves.append, "curves"),
            "intrinsic": Outbox(self._intrinsic.append, "intrinsic measures"),
            "alerts": Outbox(self._alerts.append, "alerts"),
        }

    def begin(self, step: int) -> None:
        """Drop the records after a step, because a continuation measures them again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for outbox in self._outboxes.values():
            outbox.waiting = [record for record in outbox.waiting if record["step"] <= step]
        self.curves.truncate(step)
        self._intrinsic.truncate(step)
        self._alerts.truncate(step)

    def drop(self, step: int) -> None:
        """Drop the records of a step, which is measured again; its alerts stay, because rules raise each once."""
        for outbox in (self._outboxes["curves"], self._outboxes["intrinsic"]):
            outbox.waiting = [record for record in outbox.waiting if record["step"] != step]
        self.curves.truncate(step - 1)
        self._intrinsic.truncate(step - 1)

    def replace(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace the records of a step."""
        self.drop(step)
        self.add(records)

    def state_dict(self) -> dict[str, Any]:
        """Return the records that could not be written yet."""
        return {name: outbox.waiting for name, outbox in self._outboxes.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint.

        Raises:
            ValueError: what waits for a table is no records of it.
        """
        for name, records in state.items():
            self._outboxes[name].waiting = [*restored(name, records)]

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take the records of a tick."""
        self._outboxes["curves"].send(records)

    def add_intrinsic(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take the records of the measures of the model and of each reference alone."""
        self._outboxes["intrinsic"].send(records)

    def add_alerts(self, alerts: Sequence[Alert]) -> None:
        """Take the alerts of a tick."""
        self._outboxes["alerts"].send([asdict(alert) for alert in alerts])

    def fold(self, if_grown: bool = False) -> bool:
        """Bring the tables up to date, and return whether that succeeded.

        Args:
            if_grown: fold only after enough new records, so that the cost stays proportional to all records.
        """
        for outbox in self._outboxes.values():
            outbox.send()
        try:
            if if_grown and not self.curves.fold_if_grown():
                return True
            if not if_grown:
                self.curves.fold()
            groups_of_references.fold(self.folder, self.groups)
        except Exception as error:
            log.warning("could not bring %s up to date: %s", self.folder, described(error))
            return False
        return True

    def refresh_page(self) -> None:
        """Bring `report.html` up to date, unless the last time took longer than it may."""
        started = time.monotonic()
        if started >= self._page_due:
            page.refresh(self.folder)
            ended = time.monotonic()
            self._page_due = ended + (ended - started) / PAGE_SHARE

    def draw(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Draw the figures and the page; return the figures and all records, neither if the tables cannot be read.

        Records are for loggers, which need no influences.
        """
        if not self.fold():
            return [], []
        try:
            figures = draw_run(self.folder, **vars(self.figures))
            page.refresh(self.folder)
            return figures, read_curves(self.folder).drop_columns(["influence"]).to_pylist()
        except Exception as error:
            log.warning("could not draw the figures of %s: %s", self.folder, described(error))
            return [], []
