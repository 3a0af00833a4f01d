"""Records on their way to a table: one that cannot be written now is neither lost nor the end of the training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


class Outbox:
    """A queue in front of a table. While writing fails (a full disk), records wait, in checkpoints too.

    Args:
        append: writes records at the end of the table, all of them or none.
        name: name of the table, for the warning.

    Attributes:
        waiting: records that are not written yet.

    Examples:
        >>> table = []
        >>> outbox = Outbox(table.extend, "curves")
        >>> outbox.send([{"step": 0}])
        >>> table, outbox.waiting
        ([{'step': 0}], [])
    """

    def __init__(self, append: Callable[[list[Record]], None], name: str) -> None:
        self._append, self._name = append, name
        self.waiting: list[Record] = []

    def send(self, records: Sequence[Record] = ()) -> None:
        """Write the records that wait, then these; warn at the first of several failures."""
        warned = bool(self.waiting)
        self.waiting += records
        try:
            self._append(self.waiting)
        except Exception as error:
            if not warned:
                log.warning(
                    "%s: could not write %d records (%s: %s); they are kept and written as soon as possible",
                    *(self._name, len(self.waiting), type(error).__name__, error),
                )
        else:
            self.waiting = []
