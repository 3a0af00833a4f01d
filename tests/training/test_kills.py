"""The campaign of kills and faults of `python -m benchmarks kills`, one of each per variant."""

import random
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from benchmarks import kills
from launch.cli.compose import compose
from tests.helpers.tiny_run import warm_up


def composed(overrides: list[str]) -> DictConfig:
    """Compose the runs of a variant once: they differ in their folder alone."""
    (folder,) = [override for override in overrides if override.startswith("runs_dir=")]
    cfg = deepcopy(_elsewhere(*(override for override in overrides if override != folder)))
    cfg.runs_dir = folder.removeprefix("runs_dir=")
    return cfg


@cache
def _elsewhere(*overrides: str) -> DictConfig:
    return compose(list(overrides))


@pytest.mark.slow
def test_every_variant_survives_a_kill_and_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "STEPS", 12)
    monkeypatch.setattr(kills, "EVERY", 4)
    monkeypatch.setattr(kills, "compose", composed)
    torch.set_num_threads(1)
    warm_up()
    names = list(kills.VARIANTS)
    for tally in kills.campaign(tmp_path, names, len(names), len(names), random.Random(1)):
        assert (tally.disturbed, tally.continued, tally.equal) == (1, 1, 1), tally
