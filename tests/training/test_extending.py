"""The files in docs/extending.md train and are tracked when they are written as the page says."""

import re
from pathlib import Path

import pytest

import analyze
import train
from dissimilarity.tables.curves import read_curves
from tests.helpers.tiny_run import forked_command, tiny_overrides, warm_up

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.mark.slow
def test_the_page_is_a_working_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"`mine/([\w/.]+)`[^`]*?:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 10
    for name, text in blocks:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    (command,) = re.findall(r"^PYTHONPATH=mine python train.py (.*)$", PAGE, re.MULTILINE)
    ours = [entry for entry in tiny_overrides(tmp_path) if not entry.startswith(("data=", "data.source", "model."))]
    monkeypatch.syspath_prepend(tmp_path / "mine")
    warm_up()
    done = forked_command(train, [*command.split(), *ours], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_curves(tmp_path / "runs" / "tiny").to_pylist()
    mine = [row for row in rows if row["measure"] == "kernel_cosine"]
    assert mine and all(row["site_a"] == "blocks.0.resid_post" and row["stderr"] >= 0 for row in mine)
    (command,) = re.findall(r"^PYTHONPATH=mine python analyze.py (.*)$", PAGE, re.MULTILINE)
    done = forked_command(analyze, command.split(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/tiny: " in done.stdout and (tmp_path / "results" / "parameters" / "table.parquet").exists()
