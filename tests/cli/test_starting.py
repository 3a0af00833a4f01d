"""While libraries are imported no garbage is collected, and from then on it is."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from launch.cli import starting
from tests.helpers.tiny_run import tiny


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    yield
    gc.enable()


def test_what_imports_made_is_frozen_once() -> None:
    before = gc.get_freeze_count()
    starting.begin()
    assert not gc.isenabled()
    starting.imported()
    frozen = gc.get_freeze_count()
    assert gc.isenabled() and frozen > before
    made = [[] for _ in range(1000)]
    starting.imported()
    assert gc.get_freeze_count() <= frozen and made


def test_a_training_collects_garbage(tmp_path: Path) -> None:
    starting.begin()
    train.train(tiny(tmp_path))
    assert gc.isenabled()
