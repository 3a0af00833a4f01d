"""The campaign of kills and faults of `python -m benchmarks kills`, one of each per variant."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks import kills
from tests.helpers.tiny_run import warm_up


@pytest.mark.slow
def test_every_variant_survives_a_kill_and_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "STEPS", 12)
    monkeypatch.setattr(kills, "EVERY", 4)
    torch.set_num_threads(1)
    warm_up()
    names = list(kills.VARIANTS)
    for tally in kills.campaign(tmp_path, names, len(names), len(names), random.Random(1)):
        assert (tally.disturbed, tally.continued, tally.equal) == (1, 1, 1), tally
