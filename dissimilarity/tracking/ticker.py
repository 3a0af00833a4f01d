"""What an adapter for a trainer calls: the interface that the two trackers share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dissimilarity.tracking.training_state import TrainingState


class Ticker(ABC):
    """A measurement that is repeated while a model trains.

    An adapter calls ``start`` when training starts, ``tick`` at step 0, wherever ``is_due`` says so and after the last
    step, ``before_checkpoint`` before it saves everything, and ``publish`` in the first process at the end.

    Attributes:
        folder: folder of the tables.
        journal_name: name of the file of its records.
        last_tick: step of the last tick, whether it was measured or failed; None before the first one.
    """

    folder: Path
    journal_name: ClassVar[str]
    last_tick: int | None = None

    @abstractmethod
    def start(self, training: TrainingState) -> None:
        """Load the references and continue the table, without the records that a continuation measures again."""

    @abstractmethod
    def is_due(self, step: int, last_step: int | None) -> bool:
        """Return whether there is a tick after ``step`` updates."""

    @abstractmethod
    def tick(self, training: TrainingState) -> dict[str, float]:
        """Measure, write the records, and return numbers for the loggers by key."""

    @abstractmethod
    def skip(self, training: TrainingState, note: str) -> None:
        """Write records without values, because nothing can be measured after this step."""

    @abstractmethod
    def before_checkpoint(self, training: TrainingState) -> None:
        """Save what a continuation from this checkpoint needs, and delete what no checkpoint needs any more."""

    @abstractmethod
    def publish(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Draw the figures and return their files and the records of the curves."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a continuation cannot know from the weights."""

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
