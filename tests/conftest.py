"""What every test runs under: one thread, no network, no display, and tensor shapes checked at run time."""

import gc
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import jaxtyping
import pytest
import torch

from tests.helpers import shapes

# A collection of garbage looks at all that the imports have made, by default after every few hundred new objects.
gc.set_threshold(100_000, 50, 100)
torch.set_num_threads(1)
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any load")
# Tests end processes, never the machine: what they write need not reach the disk.
os.fsync = lambda descriptor: None
shapes.install(["dissimilarity", "models", "data"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, so that the workers end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave what the imports have made out of all further collections of garbage, also in forks."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Give the whole suite its workers (pyproject.toml says how many at most); run what is named in this process."""
    return (os.cpu_count() or 1) if config.args_source is config.ArgsSource.TESTPATHS else 0


@pytest.fixture(scope="session", autouse=True)
def no_figures() -> Iterator[Any]:
    """Draw nothing at the end of a training, which takes longer than the training; return what would draw."""
    from dissimilarity.tracking import tables

    with pytest.MonkeyPatch.context() as patch:
        draw = tables.draw_run
        patch.setattr(tables, "draw_run", lambda folder, **options: [])
        yield draw


@pytest.fixture(scope="session", autouse=True)
def no_refresh() -> Iterator[Any]:
    """Write no page during trainings and studies; return what would write it."""
    from dissimilarity.report import page

    with pytest.MonkeyPatch.context() as patch:
        refresh = page.refresh
        patch.setattr(page, "refresh", lambda folder: None)
        yield refresh


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Turn off the shape checks, so that tests get the code's own errors as users do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """Check that nothing leaves gradients off, which would end the trainings of whoever calls it."""
    yield
    assert torch.is_grad_enabled()
