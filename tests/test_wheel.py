"""The wheel holds the instrument and its callbacks, and tracks a module that is not ours."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOREIGN = """
import sys
import torch, pytorch_lightning as pl
from torch import nn
from dissimilarity import CKA, Procrustes
from dissimilarity.callbacks.tracker import DissimilarityTracker

class Pictures(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(16, 8), nn.Linear(8, 8)])
    def forward(self, x):
        for stage in self.stages:
            x = stage(x).relu()
        return x
    def training_step(self, batch, index):
        return self(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

pictures = torch.utils.data.TensorDataset(torch.randn(64, 16))
probe = torch.utils.data.DataLoader(pictures, batch_size=32)
tracker = DissimilarityTracker(["init", "previous"], [CKA(), Procrustes()], probe, "tracked", sites="stages.*", every=4)
trainer = pl.Trainer(max_steps=8, callbacks=[tracker], logger=False, enable_checkpointing=False, accelerator="cpu",
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Pictures(), torch.utils.data.DataLoader(pictures, batch_size=8))
from dissimilarity.curves import read_curves
assert read_curves("tracked").num_rows > 20
import dissimilarity
print(dissimilarity.__file__)
"""


@pytest.mark.slow
def test_the_wheel_alone_tracks_a_foreign_module(tmp_path: Path) -> None:
    """The wheel is unpacked into an otherwise empty folder that comes first; of this clone nothing is on the path."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"dissimilarity"}
    assert "dissimilarity/callbacks/tracker.py" in names and "dissimilarity/measures/cka.py" in names
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{FOREIGN}"],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
