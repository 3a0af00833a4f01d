"""The global random number generators, which a measurement leaves as they were: a training draws from them too."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def restored_random_state(gpus: Sequence[int] | None = None) -> Iterator[None]:
    """Restore the random number generators of Python, numpy and torch afterwards.

    Args:
        gpus: which GPUs' generators are restored; by default those of all, once any is in use.

    Examples:
        >>> before = torch.get_rng_state()
        >>> with restored_random_state():
        ...     noise = torch.randn(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    if gpus is None:
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
