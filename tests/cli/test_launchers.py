"""Jobs of a sweep that run in separate processes find the application."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli.command import ROOT, export_modules


def test_a_process_in_another_folder_imports_our_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit unpickles a job in a new interpreter, whose path holds neither the script nor its folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_family.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    export_modules()
    export_modules()
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path / "mine")]
    code = "import my_family, settings; print(settings.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "settings.py"
