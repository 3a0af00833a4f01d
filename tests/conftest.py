"""What every test runs under: one thread, no network, no display, and tensor shapes checked at run time."""

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
jaxtyping.install_import_hook(["dissimilarity", "models", "data"], "beartype.beartype")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What users get, who have no shape checks: the code's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
