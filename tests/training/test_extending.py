"""The files in docs/extending.md train and are tracked when they are written as the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dissimilarity.tables.curves import read_curves
from tests.helpers.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.mark.slow
def test_the_page_is_a_working_extension(tmp_path: Path) -> None:
    blocks = re.findall(r"`mine/([\w/.]+)`[^`]*?:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 10
    for name, text in blocks:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    (command,) = re.findall(r"^PYTHONPATH=mine python train.py (.*)$", PAGE, re.MULTILINE)
    ours = [entry for entry in tiny_overrides(tmp_path) if not entry.startswith(("data=", "data.source", "model."))]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command.split(), *ours],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "mine")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = read_curves(tmp_path / "runs" / "tiny").to_pylist()
    mine = [row for row in rows if row["measure"] == "kernel_cosine"]
    assert mine and all(row["site_a"] == "blocks.0.resid_post" and row["stderr"] >= 0 for row in mine)
    (command,) = re.findall(r"^PYTHONPATH=mine python analyze.py (.*)$", PAGE, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, str(ROOT / "analyze.py"), *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "mine")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "runs/tiny: " in done.stdout and (tmp_path / "results" / "parameters" / "table.parquet").exists()
