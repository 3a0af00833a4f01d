"""A fault in one process of two is a note on both, wherever it happens in a tick, and the next tick has values."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import dissimilarity.comparison.activations
import dissimilarity.comparison.compare_pair
import dissimilarity.tracking.probe_reader
import dissimilarity.tracking.tracked_references
from dissimilarity import CKA, read_curves
from dissimilarity.measures.mutual_knn import MutualKNN
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.tracking.tracker import Tracker
from tests.helpers.processes import in_processes

PROBE = torch.randint(20, (8, 5), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(5) < torch.tensor([5, 3, 2, 5, 4, 3, 5, 2])[:, None]


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


FAULTS: dict[str, tuple[Any, str, type[Exception]]] = {
    "estimate": (CKA, "estimate_again", ValueError),
    "estimate, no message of ours": (CKA, "estimate_again", ZeroDivisionError),
    "terms": (CKA, "terms_again", MemoryError),
    "samples": (MutualKNN, "estimate", AssertionError),
    "reading": (dissimilarity.tracking.probe_reader, "read_chunks", OSError),
    "sums": (dissimilarity.comparison.activations.ModelActivations, "_added", MemoryError),
    "circle": (dissimilarity.comparison.compare_pair, "circled", TypeError),
    "step": (dissimilarity.tracking.tracked_references.TrackedReferences, "activations", KeyError),
    "alone": (dissimilarity.comparison.activations, "intrinsic_of_site", MemoryError),
}
"""Where a fault happens, and its kind."""


def failing(owner: Any, name: str, kind: type[Exception]) -> Callable[[], None]:
    """Make a function fail in the second process, and return how to mend it."""
    works = getattr(owner, name)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise kind("no luck")

    if dist.get_rank() == 1:
        setattr(owner, name, fails)
    return lambda: setattr(owner, name, works)


def track(folder: Path) -> None:
    """Tick once per fault, and once without any, with whole sequences and with padding."""
    for name, mask in (("whole", None), ("padded", MASK)):
        options: dict[str, Any] = {"sites": "head", "every": 1, "heatmap_every": 1, "mask": mask}
        tracker = Tracker({"other": Net(1)}, [CKA(), MutualKNN(k=2)], PROBE, folder / name, **options)
        model = Net(0)
        tracker.follow(model, 0)
        for step, fault in enumerate(FAULTS.values(), 1):
            mend = failing(*fault)
            tracker.follow(model, step)
            mend()
        tracker.follow(model, len(FAULTS) + 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("failing")
    in_processes(track, path, path)
    return path


@pytest.mark.parametrize("name", ["whole", "padded"])
def test_a_fault_in_one_process_is_a_note_and_no_deadlock(name: str, folder: Path) -> None:
    rows = read_curves(folder / name).to_pylist()
    for step, fault in enumerate([*FAULTS, "none"], 1):
        records = [row for row in rows if row["step"] == step]
        notes = {row["note"] for row in records if math.isnan(row["value"])}
        is_read = fault not in ("alone", "none") and (fault != "circle" or name == "padded")
        assert len(records) == 2 and bool(notes) == is_read, fault
        assert all("process 1" in note and "no luck" in note for note in notes), (fault, notes)


def nested(depth: int) -> list[str]:
    """Fail in the second process at some depth of blocks, and return what each block raised."""
    texts = []
    try:
        with together(True):
            gathered("before", True)
            try:
                with together(True):
                    if dist.get_rank() == 1 and depth == 2:
                        raise ValueError("inside")
                    gathered(3, True)
                if dist.get_rank() == 1 and depth == 1:
                    raise ValueError("outside")
                for _ in range(3):
                    with together(True):
                        gathered(4, True)
            except (RuntimeError, ValueError) as error:
                if depth == 1:
                    raise
                texts.append(f"inner {error}")
    except (RuntimeError, ValueError) as error:
        texts.append(f"outer {error}")
    return [*texts, *gathered("after", True)]


def test_a_process_that_waits_in_an_inner_block_leaves_the_one_that_failed(tmp_path: Path) -> None:
    first, second = in_processes(lambda: [nested(1), nested(2)], tmp_path)
    assert first == [
        ["outer process 1: ValueError: outside", "after", "after"],
        ["inner process 1: ValueError: inside", "after", "after"],
    ]
    assert second == [["outer outside", "after", "after"], ["inner inside", "after", "after"]]
