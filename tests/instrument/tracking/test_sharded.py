"""Models whose weights are divided among two processes have the curves of one process: FSDP2 and tensor parallelism."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from dissimilarity import CKA, Procrustes, read_curves
from dissimilarity.capture.sharding import is_sharded
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.tracking.tracker import Tracker
from tests.helpers.processes import in_processes

accelerate = pytest.importorskip("accelerate")

PROBE = torch.randint(20, (13, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(9) < torch.randint(3, 10, (13, 1), generator=torch.Generator().manual_seed(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Net(nn.Module):
    """A network of two blocks, which mixes positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.blocks(x + x.cumsum(1) / 4))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def plain(model: Net) -> Net:
    return model


def fsdp(model: Net) -> Net:
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)  # pyright: ignore[reportReturnType]


def tensor_parallel(model: Net, use_local_output: bool = False) -> Net:
    """Divide the hidden features of each block."""
    up = ColwiseParallel(use_local_output=use_local_output)
    for block in model.blocks:
        parallelize_module(block, init_device_mesh("cpu", (2,)), {"up": up, "down": RowwiseParallel()})
    return model


def sequence_parallel(model: Net) -> Net:
    """Divide the positions of the residual stream, too."""
    by_position, mesh = {"output_layouts": Shard(1), "use_local_output": False}, init_device_mesh("cpu", (2,))
    for block in model.blocks:
        prepare = {"desired_input_layouts": Shard(1), "use_local_output": False}
        plan = {
            "norm": SequenceParallel(use_local_output=False),
            "up": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
            "down": RowwiseParallel(**by_position),
        }
        parallelize_module(block, mesh, plan)  # pyright: ignore[reportArgumentType]
        parallelize_module(block, mesh, PrepareModuleInput(input_layouts=Replicate(), **prepare))
        output = {"output_layouts": Shard(1), "desired_output_layouts": Shard(1), "use_local_output": False}
        parallelize_module(block, mesh, PrepareModuleOutput(**output))
    head = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    return parallelize_module(model, mesh, {"head": head})  # pyright: ignore[reportReturnType]


def train(folder: Path, divide: Callable[[Net], Net], sites: Any, **options: Any) -> bool:
    """Train a divided network for one update, and return whether it is divided."""
    model = divide(net())
    references = {"init": "init", "teacher": net(1), "twin": divide(net(2))}
    options = {"references": references, "measures": CKA(), "every": 2, "heatmap_every": 2, **options}
    tracker = Tracker(probe=PROBE, folder=folder, sites=sites, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker.follow(model, 0, last_step=1)
    nn.functional.cross_entropy(model(PROBE).flatten(0, 1), PROBE.flatten()).backward()
    optimizer.step()
    tracker.follow(model, 1, last_step=1)
    return is_sharded(model)


class Module(pl.LightningModule):
    """The network in Lightning, sharded on a mesh of its ``ModelParallelStrategy``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        for module in (*self.net.blocks, self.net):
            fully_shard(module, mesh=self.device_mesh["data_parallel"])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch).flatten(0, 1), batch.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train_in_lightning(folder: Path) -> bool:
    """Do the same in Lightning."""
    tracker = DissimilarityTracker("init", CKA(), PROBE, folder, sites="net.blocks.*.down", every=2)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=1, callbacks=[tracker],
        enable_checkpointing=False, use_distributed_sampler=False, **quiet,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader([PROBE], batch_size=None))  # pyright: ignore[reportArgumentType]
    return is_sharded(module)


def train_in_accelerate(folder: Path) -> bool:
    """Do the same with a model that accelerate wraps, which shards none on a CPU."""
    accelerate.state.AcceleratorState._reset_state(
        reset_partial_state=True
    )  # that of a test before, in the parent of this process
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model := net(), torch.optim.SGD(model.parameters(), lr=0.1))
    tracker = Tracker("init", CKA(), PROBE, folder, sites="blocks.*.down", every=2)
    tracker.follow(model, 0, last_step=1)
    accelerator.backward(nn.functional.cross_entropy(model(PROBE).flatten(0, 1), PROBE.flatten()))
    optimizer.step()
    tracker.follow(model, 1, last_step=1)
    return accelerator.num_processes == 2


def curves(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = read_curves(folder).to_pylist()
    return {(row["step"], row["reference"], row["measure"], row["site_a"], row["site_b"]): row for row in rows}


CASES: dict[str, tuple[Callable[[Net], Net], list[str], dict[str, Any]]] = {
    "fsdp": (fsdp, ["head"], {"measures": [CKA(), Procrustes()]}),
    "earlier states": (fsdp, ["blocks.*.down"], {"references": ["init", "previous"]}),
    "several nulls": (fsdp, ["blocks.1"], {"references": "init", "nulls": 3, "n_units": 4}),
    "padding": (fsdp, ["blocks.1"], {"references": "init", "mask": MASK}),
    "without outliers": (fsdp, ["blocks.1"], {"control": {"drop_top_norm": 1}}),
    "tensor parallel": (tensor_parallel, ["blocks.1", "blocks.1.up"], {}),
    "sequence parallel": (sequence_parallel, ["blocks.0", "blocks.1.up"], {"references": "init"}),
    "local parts": (partial(tensor_parallel, use_local_output=True), ["blocks.*.up"], {}),
}


def train_all(folder: Path) -> list[bool]:
    results = [train(folder / case, divide, sites, **options) for case, (divide, sites, options) in CASES.items()]
    return [*results, train_in_lightning(folder / "lightning"), train_in_accelerate(folder / "accelerate")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the curves of two processes."""
    path = tmp_path_factory.mktemp("divided")
    results = in_processes(train_all, path, path)
    assert results == [[True] * (len(CASES) + 2)] * 2
    return path


def check(one: dict[tuple[Any, ...], dict[str, Any]], two: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    """Check that two processes have the curves of one."""
    assert one.keys() == two.keys() and {step for step, *_ in one} == {0, 1}
    for key, row in one.items():
        for name in ("note", "n_samples", "n_units"):
            assert two[key][name] == row[name]
        power = 2 if key[2] == "procrustes" else 1  # an angle near zero is the root of a rounding error
        assert two[key]["value"] ** power == pytest.approx(row["value"] ** power, abs=1e-6), key
        assert two[key]["null"] == pytest.approx(row["null"], abs=1e-5, nan_ok=True), key
        assert two[key]["stderr"] == pytest.approx(row["stderr"], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("case", [case for case in CASES if case != "local parts"])
def test_the_curves_of_a_divided_model_are_those_of_one_process(case: str, folder: Path, tmp_path: Path) -> None:
    _, sites, options = CASES[case]
    train(tmp_path, plain, sites, **options)
    check(curves(tmp_path), curves(folder / case))


def test_trainers_of_two_processes_have_the_curves_of_one(folder: Path, tmp_path: Path) -> None:
    train(tmp_path, plain, "blocks.*.down", references="init")
    one, in_lightning = curves(tmp_path), curves(folder / "lightning")
    check(one, curves(folder / "accelerate"))
    check(one, {(*key[:3], *(site.removeprefix("net.") for site in key[3:])): row for key, row in in_lightning.items()})


def test_parts_that_look_like_whole_activations_are_no_values(folder: Path) -> None:
    """A plan that returns each process's features as a plain tensor: a note, and the training goes on."""
    rows = curves(folder / "local parts").values()
    assert {row["step"] for row in rows} == {0, 1}
    assert all("each process has another part of the activations at blocks.0.up" in row["note"] for row in rows)
