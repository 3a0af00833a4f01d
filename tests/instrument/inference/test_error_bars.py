"""The error bar of fixed data is one number, whatever batches, processes and offset, and it is the jackknife's."""

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.estimates import ReadAgain
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.plan import Plan, make_plan
from dissimilarity.inference.jackknife import influence_of_left_out, stderr_of_influence
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.agreement import gathered
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.second_pass import Meeting
from dissimilarity.probe.batches import Slice, batches, cut_sequences, equal_units, slices_of_process
from dissimilarity.probe.probe_set import Extent, ProbeSet
from tests.helpers import oracles, sample_oracles
from tests.helpers.found_measures import SETTINGS, generator, make
from tests.helpers.oracles import Array
from tests.helpers.processes import in_processes

SEQUENCES, POSITIONS, GROUPS, WIDTH = 24, 6, 8, 5
OFFSET = 1e3
"""Offset of the means, in units of the spread."""
LENGTHS = torch.arange(SEQUENCES) // 6 % 4 + 3  # the sequences of a unit have one length
MEASURES = {setting: make(setting) for setting in SETTINGS}


def of_sequences(kernel: Callable[[Array], Array], x: Array, y: Array, sequence: NDArray[np.int64]) -> float:
    return oracles.cka_of_kernels(kernel(oracles.centered(x)), kernel(oracles.centered(y)), sequence)


def linear(x: Array) -> Array:
    return x @ x.T


def distances(x: Array) -> Array:
    return sample_oracles.distances(x).astype(float)


ORACLES: dict[str, Callable[..., float]] = {
    "cka": partial(of_sequences, linear),
    "cka_sample": oracles.debiased_cka,
    "cka_biased": oracles.biased_cka,
    "angular_cka": lambda *sides: math.acos(of_sequences(linear, *sides)),
    "angular_cka_biased": oracles.angular_cka_biased,
    "distance_correlation": sample_oracles.distance_correlation,
    "distance_correlation_debiased": partial(of_sequences, distances),
    "rsa_sqeuclidean": lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean"),
}
LEFT_OUT = list(ORACLES)
CROSSFIT = {setting for setting, measure in MEASURES.items() if measure.crossfit}
"""They need sums per unit: with one of them among the measures, no activations are read again."""
BY_SEQUENCE = ["cka", "angular_cka", "distance_correlation_debiased"]
NUMBERS = ("value", "stderr", "null", "calibrated")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""A whitening magnifies the rounding of float32 products, twice as much that of a half; an error bar that leaves groups
out is good to 1e-6."""
Rows = dict[str, dict[str, Any]]
each_store = pytest.mark.parametrize("stored", [False, True], ids=["streamed", "stored"])
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def sides(dtype: torch.dtype, offset: float = OFFSET) -> list[dict[str, Tensor]]:
    """Return two views (SEQUENCES, POSITIONS, WIDTH) of one signal, whose first sequences lie apart from the others.

    The models' outputs have no offset, because it would leave only one class.
    """
    g = generator(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shared = draw(SEQUENCES, 1, WIDTH) + draw(SEQUENCES, POSITIONS, WIDTH)
    shared[: SEQUENCES // GROUPS] += 2
    views = [shared @ draw(WIDTH, WIDTH) + draw(SEQUENCES, POSITIONS, WIDTH) for _ in range(2)]
    return [{"s": (view + offset * draw(WIDTH)).to(dtype), LOGITS: view.to(dtype)} for view in views]


def measures_of(stored: bool) -> dict[str, Measure]:
    """Return the measures, by setting, that can be computed from activations that are read once or again."""
    return {setting: measure for setting, measure in MEASURES.items() if not (stored and setting in CROSSFIT)}


def plan_of(at_most: int = SEQUENCES, masked: bool = False, stored: bool = False) -> Plan:
    """Return the cut of the probe set into chunks of at most `at_most` sequences, read once or again."""
    mask = torch.arange(POSITIONS) < LENGTHS[:, None] if masked else None
    n_units = None if stored else GROUPS
    probe = ProbeSet(Extent(SEQUENCES, POSITIONS), mask, n_units=n_units)
    plan = make_plan(probe, list(measures_of(stored).values()))
    assert plan.stored == stored
    return plan if masked else replace(plan, slices=cut_sequences(SEQUENCES, GROUPS, at_most))


def rows(acts: list[dict[str, Tensor]], plan: Plan, at_once: int, slices: Sequence[Slice] | None = None) -> Rows:
    """Return the row of each measure, from batches of at most `at_once` sequences or the chunks of one process."""
    sync = slices is not None
    x, y = (plan.side(["s"], sync) for _ in acts)
    pairs = [("s", "s")]
    cross, null = Cross(pairs, 0 if plan.stored else plan.n_units, sync), Cross(pairs, sync=sync)
    read, stored = plan.reader(["s"]), ([], [])
    for batch in batches(slices or plan.slices, at_once):
        for start, stop, groups in equal_units(batch, plan.separate_units):
            place = slice(start, stop)
            chunks = [
                side.add({site: read(site, part[place], place) for site, part in side_acts.items()}, groups)
                for side, side_acts in zip((x, y), acts, strict=True)
            ]
            cross.add(*chunks)
            null.add(chunks[0].deranged(), chunks[1])
            for side, chunk in zip(stored, chunks, strict=True):
                side.append(chunk)
    # as ``ModelActivations.share`` does: every process reads the chunks of all again
    all_x, all_y = ([chunk for part in gathered(side, sync) for chunk in part] for side in stored)

    def meetings(sites: Sequence[str], partners: Sequence[str]) -> Iterator[Meeting]:
        return ((chunk, chunk.deranged(), other) for chunk, other in zip(all_x, all_y, strict=True))

    again = ReadAgain(lambda sites: all_x, lambda sites: all_x, lambda sites: all_y, meetings) if plan.stored else None
    measures = measures_of(plan.stored)
    results = evaluate(list(measures.values()), x.close(), y.close(), cross.close(), null.close(), None, again)
    by_label = {row["measure"]: row for row in results}
    return {setting: by_label[measure.label] for setting, measure in measures.items()}


@cache
def of_one(dtype: torch.dtype, masked: bool = False, stored: bool = False) -> Rows:
    """Return the rows of one process that takes the whole probe set at once."""
    return rows(sides(dtype), plan_of(masked=masked, stored=stored), SEQUENCES)


def of_share() -> dict[Any, Rows]:
    """Return the rows, for which this process computes its share of the chunks."""
    results = {}
    for dtype in TOLERANCE:
        for masked, stored in product((False, True), repeat=2):
            plan = plan_of(masked=masked, stored=stored)
            share = slices_of_process(plan.slices, dist.get_rank(), dist.get_world_size())
            results[dtype, masked, stored] = rows(sides(dtype), plan, SEQUENCES, share)
    return results


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Rows]:
    return in_processes(of_share, tmp_path_factory.mktemp("processes"))[1]


def assert_same(
    actual: Rows, expected: Rows, tolerance: float, keys: Sequence[str] = NUMBERS, without_null: Set[str] = frozenset()
) -> None:
    """Check that rows have the same numbers, all finite but for a null or calibrated value that the note calls missing.

    Only the settings without a null may lack it. Any other setting lacks a calibrated value only where its null cannot
    be told apart from the value of identical models, or has no error bar.
    """
    assert actual.keys() == expected.keys()
    for setting, numbers in expected.items():
        label, note = MEASURES[setting].label, numbers["note"]
        assert actual[setting]["note"] == note
        lacking: Sequence[str] = ()
        if setting in without_null:
            assert note == f"{label} has no null for sequences of unequal length"
            lacking = ("null", "calibrated")
        elif note:
            null = f"{numbers['null']:.4g}"
            assert note.startswith(f"{label} has no calibrated value: its null, {null}, "), note
            lacking = ("calibrated",)
        relative = tolerance * (2 if setting in CROSSFIT else 1)
        for key in keys:
            missing = key in lacking
            assert math.isnan(numbers[key]) if missing else math.isfinite(numbers[key]), (setting, key)
            same = pytest.approx(numbers[key], rel=relative, abs=1e-15, nan_ok=missing)
            assert actual[setting][key] == same, (setting, key)


@each_dtype
@each_store
@pytest.mark.parametrize("at_once", [1, 8, 12])
def test_batches_change_nothing(dtype: torch.dtype, stored: bool, at_once: int) -> None:
    """Several groups come in one product with each other, or one group alone."""
    actual = rows(sides(dtype), plan_of(stored=stored), at_once)
    assert_same(actual, of_one(dtype, stored=stored), TOLERANCE[dtype])


@each_dtype
@each_store
@pytest.mark.parametrize("at_most", [2, 3])
def test_chunks_change_nothing_but_the_null(dtype: torch.dtype, stored: bool, at_most: int) -> None:
    """The null shifts the sequences of a chunk against each other."""
    actual = rows(sides(dtype), plan_of(at_most, stored=stored), 1)
    assert_same(actual, of_one(dtype, stored=stored), TOLERANCE[dtype], ("value", "stderr"))


@each_dtype
@each_store
@pytest.mark.parametrize("masked", [False, True])
def test_two_processes_give_the_numbers_of_one(
    of_two: dict[Any, Rows], dtype: torch.dtype, masked: bool, stored: bool
) -> None:
    actual, expected = of_two[dtype, masked, stored], of_one(dtype, masked, stored)
    assert_same(actual, expected, TOLERANCE[dtype], without_null=CROSSFIT if masked else frozenset())


def test_an_offset_changes_no_error_bar_of_measures_invariant_to_translation() -> None:
    """Nor does the distance of the first sequences, whose mean is subtracted before summing, from the others."""
    with_it, without = of_one(torch.float64), rows(sides(torch.float64, 0.0), plan_of(), SEQUENCES)
    invariant = {key for key, measure in MEASURES.items() if "translation" in measure.invariant_to}
    assert len(invariant) > 20
    with_it, without = ({setting: found[setting] for setting in invariant} for found in (with_it, without))
    assert_same(with_it, without, 1e-8)


@each_dtype
@each_store
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("setting", LEFT_OUT)
def test_the_error_bar_is_the_delete_one_jackknife(
    setting: str, masked: bool, stored: bool, dtype: torch.dtype
) -> None:
    """Recomputed from the rows, in float64, without each group of whole sequences, or each sequence."""
    plan, acts = plan_of(masked=masked), sides(dtype)
    if stored:
        plan = replace(plan, slices=[(sequence, sequence + 1, sequence) for sequence in range(SEQUENCES)])
    group = torch.tensor([unit for start, stop, unit in plan.slices for _ in range(start, stop)])
    real = torch.ones(SEQUENCES, POSITIONS, dtype=torch.bool) if plan.probe.mask is None else plan.probe.mask
    without = []
    for out in range(int(group.max()) + 1):
        remains = (group != out)[:, None] & real
        x, y = (side["s"][remains].double().numpy() for side in acts)
        sequence = [remains.nonzero()[:, 0].numpy()] if setting in BY_SEQUENCE else []
        without.append(ORACLES[setting](x, y, *sequence))
    expected = stderr_of_influence(influence_of_left_out(torch.tensor(without, dtype=torch.float64))).item()
    assert of_one(dtype, masked, stored)[setting]["stderr"] == pytest.approx(expected, rel=min(TOLERANCE[dtype], 1e-6))
