"""The error bar of fixed data is one number, whatever the batches, the processes and the offset, and the jackknife's."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.plan import Layout, lay_out
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.probe.batches import Slice, batches, equal_runs, own_slices, plan
from tests.helpers.found_measures import SETTINGS, generator, make

SEQUENCES, POSITIONS, GROUPS, WIDTH = 24, 6, 6, 5
OFFSET = 1e3
"""Of the means, in units of the spread."""
LENGTHS = torch.arange(SEQUENCES) % 4 + 3
MEASURES = {setting: make(setting) for setting in SETTINGS}
EXACT = [setting for setting in SETTINGS if "cka" in setting and isinstance(MEASURES[setting], MomentMeasure)]
"""Moment measures that are computed without each group; the others go by their derivative."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def sides(dtype: torch.dtype, offset: float = OFFSET) -> list[dict[str, Tensor]]:
    """Two views (SEQUENCES, POSITIONS, WIDTH) of one signal, the first sequences of which lie apart from the others.

    What the models put out has no offset, which would leave one class alone.
    """
    g = generator(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shared = draw(SEQUENCES, 1, WIDTH) + draw(SEQUENCES, POSITIONS, WIDTH)
    shared[: SEQUENCES // GROUPS] += 2
    views = [shared @ draw(WIDTH, WIDTH) + draw(SEQUENCES, POSITIONS, WIDTH) for _ in range(2)]
    return [{"s": (view + offset * draw(WIDTH)).to(dtype), LOGITS: view.to(dtype)} for view in views]


def layout_of(at_most: int = SEQUENCES, masked: bool = False) -> Layout:
    """The cut of the probe set into chunks of at most so many sequences."""
    mask = torch.arange(POSITIONS) < LENGTHS[:, None] if masked else None
    layout = lay_out((SEQUENCES, POSITIONS), list(MEASURES.values()), GROUPS, mask=mask)
    return layout if masked else replace(layout, slices=plan(SEQUENCES, GROUPS, at_most))


def rows(
    acts: list[dict[str, Tensor]], layout: Layout, at_once: int, slices: Sequence[Slice] | None = None
) -> dict[str, dict[str, Any]]:
    """The row of each measure from batches of at most so many sequences; of the chunks of one process, if given."""
    sync = slices is not None
    x, y = (layout.side(["s"], sync) for _ in acts)
    pairs = [("s", "s")]
    cross, null = layout.cross(pairs, sync), layout.cross(pairs, sync, errors=False)
    read = layout.reader(["s"])
    for batch in batches(slices or layout.slices, at_once):
        for start, stop, groups in equal_runs(batch, layout.apart):
            some = slice(start, stop)
            chunks = [
                side.add({site: read(site, part[some], some) for site, part in of.items()}, groups)
                for side, of in zip((x, y), acts, strict=True)
            ]
            cross.add(*chunks)
            null.add(chunks[0].deranged(), chunks[1])
    found = evaluate(list(MEASURES.values()), x.close(), y.close(), cross.close(), null.close())
    return {setting: row for row, setting in zip(found, ordered(found), strict=True)}


def ordered(found: list[dict[str, Any]]) -> list[str]:
    settings = {measure.label: setting for setting, measure in MEASURES.items()}
    return [settings[row["measure"]] for row in found]


def work(rank: int, world: int, folder: Path) -> None:
    """One process: its share of the chunks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {}
    for dtype in TOLERANCE:
        for masked in (False, True):
            layout = layout_of(masked=masked)
            found[dtype, masked] = rows(sides(dtype), layout, SEQUENCES, own_slices(layout.slices, rank, world))
    if rank == world - 1:
        torch.save(found, folder / "rows.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(2, folder), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return torch.load(folder / "rows.pt")


def assert_same(
    found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]], tolerance: float, *but: str
) -> None:
    for setting, wanted in expected.items():
        for key in {"value", "stderr", "null", "calibrated"} - {*but}:
            assert math.isfinite(wanted[key])
            assert found[setting][key] == pytest.approx(wanted[key], rel=tolerance), (setting, key)
