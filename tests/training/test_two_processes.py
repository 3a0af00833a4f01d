"""Two processes of a DDP training produce the same curves as one, also for models with other tokenizers."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dissimilarity.tables.curves import read_curves
from tests.helpers.other_tokenizers import bert, word_pieces
from tests.helpers.tiny_run import in_process, tiny, tiny_overrides

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


def metrics(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / "runs" / name / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_curves_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """Check equality up to the rounding of averaged gradients; a partial sum would be far off."""
    assert in_process(tiny(tmp_path, name="other", width=24, depth=2, trainer__max_steps=4)) == 0
    encoder = bert(tmp_path / "encoder", word_pieces())
    against = f"[init,previous,{tmp_path}/runs/other/checkpoints/step_0000004.ckpt,hf:{encoder}]"
    assert in_process(tiny(tmp_path, name="one", references=against)) == 0
    overrides = tiny_overrides(tmp_path, name="two", references=against, trainer="ddp", trainer__devices=2)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [
        [float(row["train/loss"]) for row in metrics(tmp_path, name) if row["train/loss"]] for name in ("one", "two")
    ]
    assert len(losses[0]) == 11 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    keys = ("step", "reference", "measure", "site_a", "site_b")
    one, two = (
        {tuple(row[key] for key in keys): row for row in read_curves(tmp_path / "runs" / name).to_pylist()}
        for name in ("one", "two")
    )
    assert one.keys() == two.keys() and len(one) > 40
    assert any(key[1] == "encoder" and math.isfinite(row["value"]) for key, row in one.items())
    for key, row in one.items():
        # a neighbor list changes in jumps, and an angle near zero is the root of a rounding error
        tolerance = 0.02 if key[2] == "mutual_knn" else 2e-3
        assert two[key]["value"] == pytest.approx(row["value"], abs=tolerance, nan_ok=True), key
        assert two[key]["n_samples"] == row["n_samples"]
        if key[2] == "cka" and row["step"] > 1:
            assert two[key]["stderr"] == pytest.approx(row["stderr"], rel=0.01, abs=1e-5), key
