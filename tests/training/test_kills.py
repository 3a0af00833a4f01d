"""The campaign of kills and faults of `python -m benchmarks kills`, one of each per variant."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks.kills import VARIANTS, campaign
from tests.helpers.tiny_run import warm_up


@pytest.mark.slow
def test_every_variant_survives_a_kill_and_a_fault(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    warm_up()
    for tally in campaign(tmp_path, list(VARIANTS), len(VARIANTS), len(VARIANTS), random.Random(1)):
        assert (tally.disturbed, tally.continued, tally.equal) == (1, 1, 1), tally
