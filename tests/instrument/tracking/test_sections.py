"""What workspaces show: a section of curves per reference and measure, and heat maps by step."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn

from dissimilarity import CKA, Procrustes
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.tables.curves import read_curves

PROBE = torch.randint(20, (8, 5), generator=torch.Generator().manual_seed(1))


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(20, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.embed(tokens))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(PROBE).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(Logger):
    """A logger that remembers what it gets."""

    name = version = "recorder"  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    @property
    def experiment(self) -> Any:
        return self

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.keys |= set(metrics)

    def log_hyperparams(self, params: Any) -> None:
        pass


class Wandb(Recorder):
    """The methods of W&B."""

    def __init__(self) -> None:
        super().__init__()
        self.axes: set[str] = set()
        self.images: dict[str, list[Any]] = defaultdict(list)
        self.lines: dict[str, dict[str, Any]] = {}

    def log_lines(self, key: str, lines: dict[str, Any], step: int) -> None:
        self.lines[key] = lines
        assert all(steps[-1] == step and len(steps) == len(values) for steps, values in lines.values())

    def define_metric(self, key: str, step_metric: str) -> None:
        self.axes.add(key)

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.images[key].append((step, images[0].shape[-1], images[0].std() > 0))


class TensorBoard(Recorder):
    """The methods of TensorBoard."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, list[Any]] = defaultdict(list)
        self.layouts: list[Any] = []

    def add_custom_scalars(self, layout: Any) -> None:
        self.layouts.append(layout)

    def add_image(self, key: str, picture: Any, step: int, dataformats: str) -> None:
        self.images[key].append((step, picture.shape["HWC".index("C")], dataformats == "HWC"))


QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def test_two_trackers_of_a_trainer_show_both(tmp_path: Path) -> None:
    """What one logs is also there beside another, under its own keys, and the last layout has the charts of both."""
    options: dict[str, Any] = {"sites": "layers.*", "every": 2, "heatmap_every": 2}
    shown: dict[str, list[dict[str, Any]]] = {}
    for names in (["train"], ["val"], ["train", "val"]):
        trackers = [
            DissimilarityTracker("init", CKA(), PROBE[number:], tmp_path / name, **options)
            for number, name in enumerate(names)
        ]
        wandb, board = Wandb(), TensorBoard()
        trainer = pl.Trainer(max_steps=3, accelerator="cpu", logger=[wandb, board], callbacks=list(trackers), **QUIET)
        trainer.fit(Module(), torch.utils.data.DataLoader(range(3)))  # pyright: ignore[reportArgumentType]
        shown["+".join(names)] = [wandb.lines, wandb.images, board.images, board.layouts[-1]]
        tags = {tag for charts in board.layouts[-1].values() for _, chart in charts.values() for tag in chart}
        assert tags <= board.keys and len(tags) == 2 * len(names)
        assert len([key for key in wandb.keys if key.startswith("dissimilarity") and "/layers" in key]) == len(tags)
    for alone, together in zip(shown["train"], shown["train+val"], strict=True):
        assert len(together) == 2 * len(alone) > 0
    lines = shown["train+val"][0]
    assert lines.keys() == {"layers train/init cka", "layers val/init cka"}
    for name in ("train", "val"):
        rows = [row for row in read_curves(tmp_path / name).to_pylist() if row["step"] == 3]
        ends = [row["dissimilarity"] for row in rows if row["site_a"] == row["site_b"] == "layers.1"]
        assert lines[f"layers {name}/init cka"]["layers.1"][1][-1] == ends[-1]


def test_curves_have_sections_and_heat_maps_a_slider(tmp_path: Path) -> None:
    table, wandb, board = loggers = Recorder(), Wandb(), TensorBoard()
    measures = [CKA(), Procrustes()]
    options: dict[str, Any] = {"sites": "layers.*", "every": 2, "heatmap_every": 2}
    tracker = DissimilarityTracker(["init", "previous"], measures, PROBE, tmp_path, **options)
    trainer = pl.Trainer(max_steps=3, accelerator="cpu", logger=list(loggers), callbacks=[tracker], **QUIET)
    trainer.fit(Module(), torch.utils.data.DataLoader(range(3)))  # pyright: ignore[reportArgumentType]
    assert {"dissimilarity/init/cka/layers.0", "dissimilarity/previous/procrustes/layers.1"} <= table.keys
    for workspace in (wandb, board):
        sections = {key.partition("/")[0] for key in workspace.keys if "layers" in key}
        pairs = {f"dissimilarity {name} {label}" for name in ("init", "previous") for label in ("cka", "procrustes")}
        assert pairs <= sections and not any("/" in key.partition("/")[2] for key in workspace.keys)
        assert workspace.images["heatmaps/init"] == [(2, 3, True), (3, 3, True)]  # at step 0, it is the model
        assert [step for step, *_ in workspace.images["heatmaps/previous"]] == [2, 3]
    assert "dissimilarity init cka/layers.0" in wandb.axes and not table.__dict__.get("images")
    for sections in ("stderr previous cka", "calibrated init procrustes"):
        assert {f"{sections}/layers.0", f"{sections}/layers.1"} <= wandb.keys & board.keys
    titles = {f"{reference} {label}" for reference in ("init", "previous") for label in ("cka", "procrustes")}
    assert wandb.lines.keys() == {f"layers/{title}" for title in titles}
    curves = read_curves(tmp_path).to_pylist()
    for key, lines in wandb.lines.items():
        assert lines.keys() == {"layers.0", "layers.1"}
        for site, line in lines.items():
            rows = [row for row in curves if f"layers/{row['reference']} {row['measure']}" == key]
            rows = [row for row in rows if row["site_a"] == row["site_b"] == site and row["step"] <= line[0][-1]]
            assert line == ([row["step"] for row in rows], [row["dissimilarity"] for row in rows])
    layout = board.layouts[-1]
    assert len(board.layouts) == 2  # at step 0 there is no previous; later it does not change
    tags = [f"dissimilarity init cka/layers.{layer}" for layer in (0, 1)]
    assert layout["layers"].keys() == titles and layout["layers"]["init cka"] == ["Multiline", tags]
    assert set(tags) <= board.keys
