"""A signal to one of two processes ends both after the same step."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]

SIGNALLED = """
import os

import pytorch_lightning as pl

from dissimilarity.lightning import DissimilarityTracker

tick = DissimilarityTracker._tick


def ticking(self, trainer, module):
    here = f"{trainer.global_step} {trainer.global_rank}"
    if os.environ["AT"] == here:
        os.environ["AT"] = "sent"  # another tick comes where the training ends
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    tick(self, trainer, module)


DissimilarityTracker._tick = ticking


class Nothing(pl.Callback):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "step", "rank"), [(signal.SIGTERM, 0, 0), (signal.SIGINT, 2, 1)])
def test_both_processes_save_and_stop(signum: int, step: int, rank: int, tmp_path: Path) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    overrides = tiny_overrides(tmp_path, trainer="ddp", trainer__devices=2)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides, "+callbacks.signalled._target_=signalled.Nothing"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "AT": f"{step} {rank}", "SIGNAL": str(int(signum))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 128 + signum, done.stderr[-3000:]
    assert f"tiny stopped after step {step} and is saved; run the same command again to continue" in done.stderr
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == step
    assert (checkpoints / f"step_{step:07d}.ckpt").exists()
