"""A training at one moment, in plain values, so that nothing in this folder knows a trainer."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class TrainingState:
    """The state of a training, as far as a tick needs it.

    With more than one process, ``torch.distributed`` connects them.

    Attributes:
        model: the model in training.
        step: number of updates done.
        last_step: step at which training ends; None if unknown.
        device: device of the model.
        rank: number of this process.
        world_size: number of processes that train the model together.
        autocast: returns the context in which the model runs as it trains.

    Examples:
        >>> state = TrainingState(nn.Linear(2, 2), step=3, rank=1, world_size=2)
        >>> state.is_first, state.sync
        (False, True)
    """

    model: nn.Module
    step: int
    last_step: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is immutable
    rank: int = 0
    world_size: int = 1
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def is_first(self) -> bool:
        """Whether this process writes the tables."""
        return self.rank == 0

    @property
    def sync(self) -> bool:
        """Whether other processes share the work."""
        return self.world_size > 1
