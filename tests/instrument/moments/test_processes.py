"""Two real processes (gloo) give the value of one: states of torchmetrics, and the tracker's sides and crosses."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.plan import make_plan
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import cut_sequences, slices_of_process
from dissimilarity.probe.padding import SequenceLengths
from dissimilarity.probe.probe_set import Extent, ProbeSet
from dissimilarity.probe.sampling import sampled_positions
from tests.helpers.found_measures import (
    OUTPUT_SETTINGS,
    REPRESENTATION_SETTINGS,
    SETTINGS,
    function_of,
    make,
    related,
    updated,
    views,
)
from tests.helpers.processes import in_processes

SEQUENCES, LENGTH = 13, 6
SITES = ("early", "late")
FEW = SEQUENCES * LENGTH // 2
UNDETERMINED = ("cca_crossfit", "pwcca_crossfit")


def samples(setting: str) -> tuple[Tensor, Tensor]:
    """Draw a stream with another mean in its second half, so the first batches of the processes differ."""
    x, y = views(setting, 90)
    x[40:] += 30
    return x, y


def halves(rank: int) -> slice:
    return slice(0, 40) if rank == 0 else slice(40, None)


def activations(side: int) -> dict[str, Tensor]:
    results = {
        site: related(SEQUENCES * LENGTH, 5, 8, seed)[side].unflatten(0, (SEQUENCES, LENGTH))
        for seed, site in enumerate(SITES)
    }
    logits = related(SEQUENCES * LENGTH, 9, 9)[side].unflatten(0, (SEQUENCES, LENGTH))
    return results | {LOGITS: logits[:, sampled_positions(SEQUENCES, LENGTH, FEW)]}


def rows_of_sides(slices: list[tuple[int, int, int]], n_units: int, sync: bool) -> list[dict[str, Any]]:
    """Compare two sides as the tracker does, from the chunks of one process."""
    lengths = SequenceLengths.of_slices(cut_sequences(SEQUENCES, n_units, max_per_chunk=2), max_samples=FEW)
    x, y = (Side(lengths, sync, only_sampled=frozenset({LOGITS})) for _ in range(2))
    pairs = [(a, b) for a in SITES for b in SITES]
    cross, null = Cross(pairs, n_units, sync), Cross(pairs, sync=sync)
    acts_x, acts_y = activations(0), activations(1)
    for start, stop, unit in slices:
        units = range(unit, unit + 1)
        chunk_x = x.add({site: rows[start:stop] for site, rows in acts_x.items()}, units)
        chunk_y = y.add({site: rows[start:stop] for site, rows in acts_y.items()}, units)
        cross.add(chunk_x, chunk_y)
        null.add(chunk_x.deranged(), chunk_y)
    return evaluate([make(setting) for setting in SETTINGS], x.close(), y.close(), cross.close(), null.close())


def masked_rows(rank: int, world: int) -> list[dict[str, Any]]:
    """Compare sequences of unequal lengths."""
    lengths = torch.tensor([6, 6, 4, 5, 1, 3, 3, 4, 4, 2, 6, 5, 3])
    measures = [make(setting) for setting in (*REPRESENTATION_SETTINGS, *OUTPUT_SETTINGS)]
    probe = ProbeSet(Extent(SEQUENCES, LENGTH), torch.arange(LENGTH) < lengths[:, None], n_units=5)
    plan = replace(make_plan(probe, measures), max_samples=30)
    x, y = (plan.side(SITES, sync=world > 1) for _ in range(2))
    pairs = [(a, b) for a in SITES for b in SITES]
    cross, null = Cross(pairs, plan.n_units, world > 1), Cross(pairs, sync=world > 1)
    reader = plan.reader(SITES)
    whole = [{**activations(side), LOGITS: related(SEQUENCES * LENGTH, 9, 9)[side]} for side in (0, 1)]
    for start, stop, unit in slices_of_process(plan.slices, rank, world):
        chunks = []
        for side, acts in zip((x, y), whole, strict=True):
            parts = {site: rows.reshape(SEQUENCES, LENGTH, -1)[start:stop] for site, rows in acts.items()}
            read = {site: reader(site, part, slice(start, stop)) for site, part in parts.items()}
            chunks.append(side.add(read, range(unit, unit + 1)))
        cross.add(*chunks)
        null.add(chunks[0].deranged(), chunks[1])
    return evaluate(measures, x.close(), y.close(), cross.close(), null.close())


def refusal(setting: str, rows: slice) -> str:
    """Return why a cross-fitted measure refuses 48 samples of 20 and of 4 dimensions, of which rows are seen here."""
    x, y = (torch.randn(48, d, generator=torch.Generator().manual_seed(d)) for d in (20, 4))
    try:
        return str(updated(make(setting), x[rows], y[rows], 5).compute())
    except ValueError as error:
        return str(error)


def of_share() -> dict[str, Any]:
    """Return what one process gets, for its share of the samples and of the chunks of a plan."""
    rank, world = dist.get_rank(), dist.get_world_size()
    results: dict[str, Any] = {}
    for setting in SETTINGS:
        x, y = (rows[halves(rank)] for rows in samples(setting))
        results[setting] = updated(make(setting), x, y, 11).compute().item()
    alone = make("cka")
    if rank == 0:
        alone.update(*(rows[halves(rank)] for rows in samples("cka")))
    results["all on rank 0"] = alone.compute().item()
    results["refused"] = [refusal(setting, halves(rank)) for setting in UNDETERMINED]
    slices = cut_sequences(SEQUENCES, 5, max_per_chunk=2)
    results["rows"] = rows_of_sides(slices_of_process(slices, rank, world), 5, sync=True)
    results["masked"] = masked_rows(rank, world)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(of_share, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_metric_over_two_processes_is_that_of_all_samples(setting: str, results: list[dict[str, Any]]) -> None:
    expected = function_of(setting)(*samples(setting)).item()
    for result in results:
        assert result[setting] == pytest.approx(expected, abs=1e-10)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_process_without_samples_gets_the_value(results: list[dict[str, Any]]) -> None:
    x, y = (rows[halves(0)] for rows in samples("cka"))
    expected = function_of("cka")(x, y).item()
    assert [result["all on rank 0"] for result in results] == pytest.approx([expected] * 2, abs=1e-10)


def test_halves_of_two_processes_that_determine_no_map_are_refused(results: list[dict[str, Any]]) -> None:
    for result in results:
        for message in result["refused"]:
            assert (
                "a half of 24 samples does not determine a map of 20 directions to 4, which needs at least 25"
                in message
            )


@pytest.mark.parametrize("kind", ["rows", "masked"])
def test_sides_and_crosses_of_two_processes_give_the_rows_of_one(kind: str, results: list[dict[str, Any]]) -> None:
    whole = rows_of_sides(cut_sequences(SEQUENCES, 5, max_per_chunk=2), 5, sync=False)
    expected = whole if kind == "rows" else masked_rows(0, 1)
    assert len(expected) == 4 * len(REPRESENTATION_SETTINGS) + len(OUTPUT_SETTINGS)
    for row in expected:
        # Sequences of unequal length meet in a circle, which mixes the halves of a cross-fitted measure.
        has_no_null = kind == "masked" and make(row["measure"]).crossfit
        assert math.isnan(row["null"]) == has_no_null and math.isfinite(row["value"])
        notes = (
            "has no null for sequences of unequal length",
            "sequences have so few positions in common",
            "has no standard error",
            "is biased toward similar",
        )
        assert not row["note"] or any(note in row["note"] for note in notes)
    for result in results:
        for row, expected_row in zip(result[kind], expected, strict=True):
            for key in ("influence", "nulls"):
                assert torch.allclose(row.pop(key), expected_row[key], rtol=1e-6, atol=1e-9, equal_nan=True)
            numbers = {key: value for key, value in expected_row.items() if isinstance(value, (int, float))}
            assert {key: row[key] for key in row.keys() - numbers.keys()} == {
                key: expected_row[key] for key in row.keys() - numbers.keys()
            }
            assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-9, abs=1e-12, nan_ok=True)
            assert row["n_samples"] == expected_row["n_samples"]
