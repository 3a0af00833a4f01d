"""What an adapter for a trainer calls: the interface that the two trackers share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dissimilarity.probe.arguments import shown, whole
from dissimilarity.tracking.alerts import Alert
from dissimilarity.tracking.lines import Lines
from dissimilarity.tracking.training_state import TrainingState

_last_users: WeakValueDictionary[Path, "Ticker"] = WeakValueDictionary()
"""The tracker that began last at each table."""


class Ticker(ABC):
    """A measurement that is repeated while a model trains.

    In a loop of your own, ``follow`` is all you need. An adapter for a trainer calls ``start`` when training starts,
    ``tick`` at step 0, wherever ``is_due`` says so and after the last step unless it ``is_complete_at`` that,
    ``before_checkpoint`` before it saves everything, and ``publish`` in the first process at the end.

    Attributes:
        folder: folder of the tables.
        journal_name: name of the file of its records.
        last_tick: step of the last tick, whether it was measured or failed; None before the first one.
        alerts: what rules raised at the last tick.
        why_to_stop: the alerts for which the training should end at this step, as text; empty without one.
    """

    folder: Path
    journal_name: ClassVar[str]
    last_tick: int | None = None
    alerts: Sequence[Alert] = ()
    why_to_stop: str = ""
    _followed: TrainingState | None = None

    def follow(self, model: nn.Module, step: int, last_step: int | None = None) -> dict[str, float]:
        """Measure a model in any loop: call this before the first update and after each, and it ticks when one is due.

        If ``torch.distributed`` connects several processes, call it in all of them: they share the work, and the first
        one writes the tables.

        Args:
            model: the model in training, also sharded (FSDP, tensor parallel).
            step: number of updates done. The first call reads the references. Step 0 begins a training, whose curves
                replace those in the folder; a later one continues it, after ``load_state_dict`` of the ``state_dict()``
                that was saved with the weights, in every process.
            last_step: number of updates at which training ends, which has a tick and draws the figures; None if
                unknown, then call ``publish`` at the end.

        Returns:
            the numbers of the tick for your logger, by key; empty without a tick.

        Raises:
            ValueError: no module, a step before the last one that is not 0, or another tracker has begun in the folder
                since this one did.
        """
        if not isinstance(model, nn.Module):
            raise ValueError(f"expected the model in training, a torch.nn.Module, found {shown(model)}")
        step = whole("step", step, 0)
        last_step = None if last_step is None else whole("last_step", last_step, 0)
        model = model.module if isinstance(model, DistributedDataParallel) else model
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        connected = dist.is_available() and dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if connected else (0, 1)
        training = TrainingState(model, step, last_step, device, rank, world_size)
        before = None if self._followed is None else self._followed.step
        if before is not None and 0 < step < before:
            raise ValueError(
                f"expected step {before} or a later one, found {step}; begin again at 0, or make a tracker "
                "with its own folder"
            )
        journal = self.folder.resolve() / self.journal_name
        is_another = self._followed is not None and model is not self._followed.model
        if before is None or step < before or (not step and is_another):
            _last_users[journal] = self
            self.start(training)
        if _last_users.get(journal) is not self:
            raise ValueError(f"another tracker now writes {journal}; give each its own folder")
        self._followed = training
        is_due = step != self.last_tick and self.is_due(step, last_step)
        metrics = self.tick(training) if is_due or (step == last_step and not self.is_complete_at(step)) else {}
        if step == last_step and training.is_first:
            self.publish()
        return metrics

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Return the heat maps of the last tick as images, by reference; none where it has none."""
        return {}

    def lines(self) -> Lines:
        """Return the curves so far, by reference and measure; none where loggers get no new chart of them."""
        return {}

    @abstractmethod
    def start(self, training: TrainingState) -> None:
        """Load the references and continue the table, without the records that a continuation measures again."""

    @abstractmethod
    def is_due(self, step: int, last_step: int | None) -> bool:
        """Return whether there is a tick after ``step`` updates."""

    def is_complete_at(self, step: int) -> bool:
        """Return whether nothing is left to measure if training ends after ``step`` updates."""
        return self.last_tick == step

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
        """Return what a continuation cannot know from the weights; call it in every process.

        In a loop of your own, this also saves in the folder what ``previous`` will refer to.
        """
        if self._followed is not None:
            self.before_checkpoint(self._followed)
        return {}

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint, at its step or a later one, also if this tracker was further."""
        self._followed = None
