"""Rows on their way to a table: what cannot be written now is not lost, and ends no training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Outbox:
    """Appends rows to a table; while that fails (a full disk) they wait, also in checkpoints, and go with the next.

    Args:
        append: writes rows at the end of the table, all of them or none.
        name: of the table, for the warning.
    """

    def __init__(self, append: Callable[[list[Row]], None], name: str) -> None:
        self._append, self._name = append, name
        self.waiting: list[Row] = []

    def send(self, rows: Sequence[Row] = ()) -> None:
        """Write what waits, and then these rows; the first failure in a row is a warning."""
        held_up = bool(self.waiting)
        self.waiting += rows
        try:
            self._append(self.waiting)
        except Exception as error:
            if not held_up:
                log.warning(
                    "%s: %d rows could not be written (%s: %s); they are kept and written as soon as that works",
                    *(self._name, len(self.waiting), type(error).__name__, error),
                )
        else:
            self.waiting = []
