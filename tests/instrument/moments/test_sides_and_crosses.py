"""Sides, crosses and how a probe set is cut: every pair as its function computes it, nulls, and failures."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dissimilarity import CKA, MutualKNN, Procrustes
from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.missing import CROSSFIT_UNITS
from dissimilarity.functional import cka
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import cut_sequences, slices_of_process
from dissimilarity.probe.padding import SequenceLengths
from dissimilarity.probe.sampling import priorities, sampled_positions
from tests.helpers.found_measures import OUTPUT_SETTINGS, REPRESENTATION_SETTINGS, function_of, make

Acts = dict[str, Tensor]

WIDTHS = {"embed": 6, "middle": 11, "last": 4}
SEQUENCES, LENGTH, N_UNITS = 14, 5, 4
BIASED = "is biased toward similar: 70 samples are fewer than 10 for each of 11 dimensions"
"""The note at the widest site of a value that is there, beside notes that say why a value is missing."""


def has_value(note: str) -> bool:
    """Return whether a note says of a value that is there what it lacks: the null of 14 sequences may have no error."""
    return not note or BIASED in note or ("has no calibrated value: its null" in note and "no standard error" in note)


def activations(seed: int, sequences: int = SEQUENCES, length: int = LENGTH) -> Acts:
    """Draw sites of different widths, off the origin, that share a signal fixed by position and sequence."""
    g, shared = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(77)
    signal = torch.randn(sequences, length, 4, generator=shared, dtype=torch.float64)
    return {
        site: signal @ torch.randn(4, width, generator=g, dtype=torch.float64)
        + torch.randn(sequences, length, width, generator=g, dtype=torch.float64)
        + 3
        for site, width in WIDTHS.items()
    }


def units(n_units: int) -> SequenceLengths:
    """Return lengths of one sequence per unit, without sample measures."""
    return SequenceLengths(torch.arange(n_units))


def measured(
    x_acts: Acts,
    y_acts: Acts,
    measures: list[Measure],
    max_per_chunk: int = 3,
    n_units: int = N_UNITS,
    max_samples: int = 10**6,
) -> list[dict[str, Any]]:
    """Compare all pairs of sites, chunk by chunk."""
    sequences = len(next(iter(x_acts.values())))
    slices = cut_sequences(sequences, n_units, max_per_chunk)
    lengths = SequenceLengths.of_slices(slices, max_samples=max_samples)
    x, y = Side(lengths), Side(lengths)
    pairs = [(a, b) for a in x_acts for b in y_acts]
    cross, null = Cross(pairs, lengths.n_units), Cross(pairs)
    for start, stop, unit in slices:
        chunk_units = range(unit, unit + 1)
        chunk_x = x.add({site: rows[start:stop] for site, rows in x_acts.items()}, chunk_units)
        chunk_y = y.add({site: rows[start:stop] for site, rows in y_acts.items()}, chunk_units)
        cross.add(chunk_x, chunk_y)
        null.add(chunk_x.deranged(), chunk_y)
    return evaluate(measures, x.close(), y.close(), cross.close(), null.close())


def test_every_pair_is_what_its_function_returns_for_the_samples() -> None:
    x, y = activations(0), activations(1)
    slices = cut_sequences(SEQUENCES, N_UNITS, 3)
    rows = measured(x, y, [make(setting) for setting in REPRESENTATION_SETTINGS])
    assert [(row["site_a"], row["site_b"]) for row in rows[:: len(REPRESENTATION_SETTINGS)]] == [
        (a, b) for a in x for b in y
    ]
    for row in rows:
        setting = row["measure"]
        sequence = torch.arange(SEQUENCES).repeat_interleave(LENGTH)
        unit = torch.tensor([unit for start, stop, unit in slices for _ in range((stop - start) * LENGTH)])
        samples = x[row["site_a"]].flatten(0, 1), y[row["site_b"]].flatten(0, 1)
        expected = function_of(setting, sequence, unit)(*samples).item()
        assert row["value"] == pytest.approx(expected, abs=1e-9)
        assert row["dissimilarity"] == make(setting).to_dissimilarity(row["value"])
        few_units = make(setting).crossfit and N_UNITS < CROSSFIT_UNITS
        assert (few_units or row["stderr"] > 0) and row["n_samples"] == SEQUENCES * LENGTH
        few = 10 * max(WIDTHS[row["site_a"]], WIDTHS[row["site_b"]]) > SEQUENCES * LENGTH
        is_plug_in = getattr(make(setting), "fits_map", False) and not make(setting).crossfit
        note = BIASED if few and is_plug_in else "needs 8 units" if few_units else ""
        assert note in row["note"] and (bool(note) == bool(row["note"]) or has_value(row["note"]))


def test_the_cut_into_chunks_changes_nothing() -> None:
    x, y = activations(0), activations(1)
    measures: list[Measure] = [CKA(), Procrustes(), MutualKNN(k=4)]
    whole = measured(x, y, measures, max_per_chunk=100)
    for row, expected_row in zip(measured(x, y, measures, max_per_chunk=2), whole, strict=True):
        assert row["value"] == pytest.approx(expected_row["value"], abs=1e-10)
        assert row["stderr"] == pytest.approx(expected_row["stderr"], rel=1e-9)


def test_equal_units_in_one_chunk_are_the_units_one_by_one() -> None:
    """Forward passes run several units at once, as (units, samples, width) in one product."""
    x, y = ({site: rows[:12] for site, rows in activations(seed).items()} for seed in (0, 1))
    measures: list[Measure] = [CKA(), MutualKNN(k=4)]
    single = measured(x, y, measures, max_per_chunk=3)
    sides = [Side(SequenceLengths(torch.arange(12) // 3, max_samples=10**6)) for _ in range(2)]
    pairs = [(a, b) for a in x for b in y]
    cross, null = Cross(pairs, 4), Cross(pairs)
    chunks = [side.add(acts, range(4)) for side, acts in zip(sides, (x, y), strict=True)]
    cross.add(*chunks)
    null.add(chunks[0].deranged(), chunks[1])
    together = evaluate(measures, sides[0].close(), sides[1].close(), cross.close(), null.close())
    for row, expected_row in zip(together, single, strict=True):
        assert [row["value"], row["null"]] == pytest.approx([expected_row["value"], expected_row["null"]], abs=1e-10)
        assert row["stderr"] == pytest.approx(expected_row["stderr"], rel=1e-9)


@pytest.mark.parametrize("columns", [1, 10, 17])
def test_sums_added_a_few_sites_at_a_time_are_the_same(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = activations(0), activations(1)
    whole = measured(x, y, [CKA()])
    monkeypatch.setattr("dissimilarity.moments.cross.X_COLUMNS", columns)
    for row, expected_row in zip(measured(x, y, [CKA()]), whole, strict=True):
        for key in ("value", "null", "stderr"):
            assert row[key] == pytest.approx(expected_row[key], abs=1e-12)


def test_no_sequence_meets_itself_in_the_null() -> None:
    side = Side(units(3), by_sequence=False)
    ids = torch.arange(12.0)[:, None, None].expand(12, LENGTH, 2).contiguous()
    chunk = side.add({"site": ids}, range(3))
    before, after = (c.side_by_side(["site"])[..., 0] for c in (chunk, chunk.deranged()))
    assert not (before == after).any()
    assert torch.equal(before.sort(1).values, after.sort(1).values)
    torch.testing.assert_close(chunk.deranged().norms_of(["site"])[..., 0], 2 * after.double().square())


def test_sites_are_side_by_side_in_the_given_order_deranged_or_not() -> None:
    side = Side(units(3), by_sequence=False)
    chunk = side.add({f"site{i}": torch.randn(12, LENGTH, 2) for i in range(3)}, range(3))
    for part in (chunk, chunk.deranged()):
        sites = ["site2", "site0"]
        assert torch.equal(part.side_by_side(sites), torch.cat([part.side_by_side([site]) for site in sites], -1))
        assert torch.equal(part.norms_of(sites), torch.cat([part.norms_of([site]) for site in sites], -1))


def in_chunks() -> list[int]:
    """Return the sequence that each one meets: the one before it in a circle of its chunk."""
    return [at for start, stop, _ in cut_sequences(SEQUENCES, N_UNITS, 3) for at in (stop - 1, *range(start, stop - 1))]


def test_the_null_is_the_value_of_the_samples_rolled_by_hand() -> None:
    x, y = activations(0), activations(1)
    rows = measured(x, y, [CKA(), Procrustes()], max_per_chunk=3)
    for row in rows:
        rolled = y[row["site_b"]][in_chunks()].flatten(0, 1)
        sequence = torch.arange(SEQUENCES).repeat_interleave(LENGTH)
        expected = function_of(row["measure"], sequence)(x[row["site_a"]].flatten(0, 1), rolled).item()
        assert row["null"] == pytest.approx(expected, abs=1e-9)


def test_the_null_of_a_sample_measure_is_the_same_rearrangement() -> None:
    x, y = activations(0), activations(1)
    for row in measured(x, y, [MutualKNN(k=4)]):
        rolled = y[row["site_b"]][in_chunks()].flatten(0, 1)
        expected = MutualKNN(k=4)
        expected.update(x[row["site_a"]].flatten(0, 1), rolled)
        assert row["null"] == pytest.approx(expected.compute().item(), abs=1e-12)


def test_the_null_is_about_the_value_of_independent_data() -> None:
    measures: list[Measure] = [CKA(), CKA(debiased=False), Procrustes(), MutualKNN(k=4)]
    estimates: dict[str, list[tuple[float, float, float]]] = {measure.label: [] for measure in measures}
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        x, other = torch.randn(2, 32, LENGTH, 6, generator=g, dtype=torch.float64)
        y = x + 0.5 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        related = measured({"site": x}, {"site": y}, measures)
        unrelated = measured({"site": x}, {"site": other}, measures)
        for row, independent in zip(related, unrelated, strict=True):
            estimates[row["measure"]].append((row["null"], independent["value"], row["value"]))
    for values in estimates.values():
        null, independent, value = torch.tensor(values).mean(0).tolist()
        assert abs(null - independent) < 0.1 * abs(value - independent)


def test_sample_measures_read_the_same_positions_of_every_sequence() -> None:
    x, y = activations(0), activations(1)
    positions = sampled_positions(SEQUENCES, LENGTH, 2 * SEQUENCES)
    assert len(positions) == 2
    for row in measured(x, y, [MutualKNN(k=4)], max_samples=2 * SEQUENCES):
        subsets = [acts[site][:, positions].flatten(0, 1) for acts, site in ((x, row["site_a"]), (y, row["site_b"]))]
        measure = MutualKNN(k=4)
        measure.update(*subsets)
        assert row["value"] == pytest.approx(measure.compute().item(), abs=1e-12)
        assert row["n_samples"] == 2 * SEQUENCES


def test_each_sample_measure_reads_no_more_samples_than_it_asks_for() -> None:
    """With more sequences than that, it reads one position from some of them."""
    x, y = activations(0), activations(1)
    expected = {70: 70, 40: 2 * SEQUENCES, 14: 14, 9: 9}
    for max_samples, count in expected.items():
        (row, *_) = measured(x, y, [MutualKNN(k=4, max_samples=max_samples)])
        assert row["n_samples"] == count
    values = {measured(x, y, [MutualKNN(k=4, max_samples=9, seed=seed)])[0]["value"] for seed in range(4)}
    assert len(values) > 1


def test_sums_do_not_grow_with_the_samples() -> None:
    def numbers(rounds: int) -> int:
        side, cross = Side(units(N_UNITS), by_sequence=False), Cross([("last", "last"), ("embed", "last")], N_UNITS)
        for seed in range(rounds):
            chunk = side.add(activations(seed), range(seed % N_UNITS, seed % N_UNITS + 1))
            cross.add(chunk, chunk)
        sums = [side.close().sums, cross.close().sums]
        parts = [by_site.values() for s in sums for by_site in (s.totals, s.units)]
        return sum(tensor.numel() for values in parts for moments in values for tensor in moments.values())

    assert numbers(2) == numbers(20)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_leave_a_note_at_their_site_alone(value: float) -> None:
    x, y = activations(0), activations(1)
    y["middle"][3, 2, 1] = value
    for row in measured(x, y, [CKA(), Procrustes(), MutualKNN(k=4)]):
        if row["site_b"] == "middle":
            assert all(math.isnan(row[key]) for key in ("value", "dissimilarity", "stderr", "null"))
            assert row["note"].startswith("1 value at middle is NaN or infinite, in sequence 3 of")
        else:
            assert math.isfinite(row["value"]) and has_value(row["note"])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_site_without_variance_says_so(constant: float, dtype: torch.dtype) -> None:
    x, y = ({site: rows.to(dtype) for site, rows in activations(seed).items()} for seed in (0, 1))
    x["last"] = torch.full_like(x["last"], constant)
    for row in measured(x, y, [CKA(), Procrustes(), MutualKNN(k=4)]):
        assert math.isnan(row["value"]) == math.isnan(row["dissimilarity"]) == (row["site_a"] == "last")
        if row["site_a"] == "last":
            assert row["note"] == "zero variance at last"
        else:
            assert has_value(row["note"])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_a_site_beyond_the_range_of_float32_products_says_so(scale: float) -> None:
    x, y = ({site: rows.float() for site, rows in activations(seed).items()} for seed in (0, 1))
    x["last"] *= scale
    for row in measured(x, y, [CKA(), Procrustes()]):
        assert math.isnan(row["value"]) == (row["site_a"] == "last")
        if row["site_a"] == "last":
            assert "too large or" in row["note"]
        else:
            assert has_value(row["note"])


def test_too_few_samples_are_reported_with_the_remedy() -> None:
    rows = measured(activations(0), activations(1), [MutualKNN(k=200), CKA()])
    assert rows[0]["note"] == "mutual_knn_200 has 70 samples and needs 202: pass more or longer sequences"
    assert math.isnan(rows[0]["value"]) and math.isfinite(rows[1]["value"])


def test_zero_samples_have_no_neighbors_and_leave_the_other_measures_alone() -> None:
    x, y = activations(0), activations(1)
    x["embed"][0, 0] = 0
    for row in measured(x, y, [CKA(), MutualKNN(k=4)]):
        if row["site_a"] == "embed" and row["measure"] == "mutual_knn_4":
            assert "embed" in row["note"] and "1 samples are zero" in row["note"] and math.isnan(row["value"])
        else:
            assert math.isfinite(row["value"])


def test_sites_of_different_numbers_of_samples_are_rejected() -> None:
    acts = activations(0)
    acts["pooled"] = acts["last"].mean(1)
    with pytest.raises(ValueError, match="as many samples at every site.*pooled"):
        Side(units(1), by_sequence=False).add(acts, range(1))


def test_models_of_different_numbers_of_positions_are_rejected() -> None:
    x, y = Side(units(1), by_sequence=False), Side(units(1), by_sequence=False)
    longer = {site: torch.cat([rows, rows[:, :1]], 1) for site, rows in activations(1).items()}
    with pytest.raises(ValueError, match="number of positions.*5 and 6"):
        Cross([("last", "last")]).add(x.add(activations(0), range(1)), y.add(longer, range(1)))


def test_the_null_needs_two_sequences() -> None:
    one = {site: rows[:1] for site, rows in activations(0).items()}
    with pytest.raises(ValueError, match="at least two"):
        Side(units(1), by_sequence=False).add(one, range(1)).deranged()


@settings(max_examples=60)
@given(sequences=st.integers(2, 200), n_units=st.integers(1, 40), max_per_chunk=st.integers(1, 50))
def test_chunks_cover_everything_once_in_units_of_nearly_equal_size(
    sequences: int, n_units: int, max_per_chunk: int
) -> None:
    slices = cut_sequences(sequences, n_units, max_per_chunk)
    assert [i for start, stop, _ in slices for i in range(start, stop)] == list(range(sequences))
    numbers = [unit for _, _, unit in slices]
    assert numbers == sorted(numbers) and set(numbers) == set(range(min(n_units, sequences // 2)))
    sizes = [sum(stop - start for start, stop, number in slices if number == unit) for unit in set(numbers)]
    assert max(sizes) - min(sizes) <= 1
    lengths = [stop - start for start, stop, _ in slices]
    assert min(lengths) >= 2 and max(lengths) <= max(max_per_chunk, 3)


@settings(max_examples=60)
@given(
    sequences=st.integers(2, 100), n_units=st.integers(1, 20), max_per_chunk=st.integers(1, 9), world=st.integers(1, 8)
)
def test_each_chunk_is_on_one_process_and_each_unit_whole(
    sequences: int, n_units: int, max_per_chunk: int, world: int
) -> None:
    slices = cut_sequences(sequences, n_units, max_per_chunk)
    shares = [slices_of_process(slices, rank, world) for rank in range(world)]
    assert [piece for share in shares for piece in share] == slices
    of_process = [{unit for _, _, unit in share} for share in shares]
    assert sum(len(part) for part in of_process) == len(set().union(*of_process)) == 1 + slices[-1][2]
    if 1 + slices[-1][2] >= world:
        assert all(shares) and max(map(len, of_process)) - min(map(len, of_process)) <= 1


@pytest.mark.parametrize("sequences", [0, 1])
def test_a_probe_set_that_cannot_be_cut_is_rejected(sequences: int) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        cut_sequences(sequences, 16, 4)


@settings(max_examples=40)
@given(sequences=st.integers(1, 300), length=st.integers(1, 300), max_samples=st.integers(1, 2000))
def test_sampled_positions_are_ascending_and_about_as_many_as_requested(
    sequences: int, length: int, max_samples: int
) -> None:
    positions = sampled_positions(sequences, length, max_samples).tolist()
    assert positions == sorted(set(positions)) and positions[0] >= 0 and positions[-1] < length
    assert len(positions) * sequences <= max(max_samples, sequences)
    assert len(positions) in (length, max(1, max_samples // sequences))


def test_priorities_depend_on_place_and_seed_alone_and_are_even() -> None:
    whole = priorities(0, 20_000, seed=0)
    assert torch.equal(torch.cat([priorities(0, 7, 0), priorities(7, 19_993, 0)]), whole)
    assert len(whole.unique()) == len(whole) and int(whole.min()) >= 0
    sampled = whole.topk(2000, largest=False).indices
    assert torch.histc(sampled.double(), 10, 0, 20_000).sub(200).abs().max() < 60
    assert not torch.equal(priorities(0, 100, 1), whole[:100])


def outputs(seed: int, classes: int = 9) -> Tensor:
    """Draw logits (SEQUENCES, LENGTH, classes) that have a part in common across models."""
    g, shared = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(78)
    common, noise = (
        torch.randn(SEQUENCES, LENGTH, 40, generator=seeded, dtype=torch.float64) for seeded in (shared, g)
    )
    return (2 * common + noise)[..., :classes]


def measured_outputs(
    x_logits: Tensor, y_logits: Tensor, measures: list[Measure], pooled: bool = False
) -> list[dict[str, Any]]:
    """Compare two models at one site and at their logits, which the sides get at the sampled positions alone."""
    positions = sampled_positions(SEQUENCES, LENGTH, 2 * SEQUENCES)
    slices = cut_sequences(SEQUENCES, N_UNITS, 3)
    lengths = SequenceLengths.of_slices(slices, max_samples=2 * SEQUENCES)
    x, y = (Side(lengths, only_sampled=frozenset({LOGITS})) for _ in range(2))
    cross, null = Cross([("last", "last")], N_UNITS), Cross([("last", "last")])
    last = [activations(seed)["last"] for seed in (0, 1)]
    last = [acts.mean(1) if pooled else acts for acts in last]
    for start, stop, unit in slices:
        chunks = [
            side.add({"last": acts[start:stop], LOGITS: logits[start:stop, positions]}, range(unit, unit + 1))
            for side, acts, logits in ((x, last[0], x_logits), (y, last[1], y_logits))
        ]
        cross.add(*chunks)
        null.add(chunks[0].deranged(), chunks[1])
    return evaluate(measures, x.close(), y.close(), cross.close(), null.close())


def test_output_measures_are_computed_at_the_logits_and_the_others_elsewhere() -> None:
    measures = [*(make(setting) for setting in OUTPUT_SETTINGS), CKA(), MutualKNN(k=4)]
    rows = measured_outputs(outputs(0), outputs(1), measures)
    assert [(row["measure"], row["site_a"], row["site_b"]) for row in rows] == [
        ("cka", "last", "last"),
        ("mutual_knn_4", "last", "last"),
        *((setting, LOGITS, LOGITS) for setting in OUTPUT_SETTINGS),
    ]
    positions = sampled_positions(SEQUENCES, LENGTH, 2 * SEQUENCES)
    x, y = (outputs(seed)[:, positions] for seed in (0, 1))
    for row in rows[2:]:
        function = function_of(row["measure"])
        assert row["value"] == pytest.approx(function(x.flatten(0, 1), y.flatten(0, 1)).item(), abs=1e-10)
        rolled = y[in_chunks()].flatten(0, 1)
        assert row["null"] == pytest.approx(function(x.flatten(0, 1), rolled).item(), abs=1e-10)
        assert row["null"] > row["value"] > 0 and row["stderr"] > 0 and row["n_samples"] == 2 * SEQUENCES


def test_outputs_are_compared_at_all_sampled_positions_even_if_sites_are_pooled() -> None:
    measures: list[Measure] = [CKA(), *(make(setting) for setting in OUTPUT_SETTINGS)]
    pooled, plain = (
        measured_outputs(outputs(0), outputs(1), measures, pooled=is_pooled) for is_pooled in (True, False)
    )
    for row, expected_row in zip(pooled[1:], plain[1:], strict=True):
        for key, expected in expected_row.items():
            assert (
                torch.equal(torch.as_tensor(row[key]), torch.as_tensor(expected))
                if key in ("nulls", "influence")
                else (row[key] == expected)
            )


def test_different_vocabularies_leave_a_note_and_no_distance_of_outputs() -> None:
    (kl,) = measured_outputs(outputs(0), outputs(1, classes=11), [make("kl")])
    assert math.isnan(kl["value"]) and math.isnan(kl["dissimilarity"])
    assert "same classes on both sides, found 9 and 11" in kl["note"] and "logits" in kl["note"]


def test_outputs_that_diverged_leave_a_note_and_no_distance() -> None:
    bad = outputs(1)
    bad[3, :, 2] = float("nan")
    *rows, other = measured_outputs(outputs(0), bad, [CKA(), *(make(setting) for setting in OUTPUT_SETTINGS)])[::-1]
    assert other["measure"] == "cka" and math.isfinite(other["value"])
    for row in rows:
        assert math.isnan(row["value"]) and "2 of 252 outputs are NaN or infinite" in row["note"]


def test_cka_of_a_concatenation_is_that_of_the_stream() -> None:
    """Only CKA adds up sums of units in the tracker, and computes them at once in the function."""
    x, y = activations(0, 40, 9), activations(1, 40, 9)
    row = measured({"a": x["last"]}, {"b": y["middle"]}, [CKA()], max_per_chunk=2, n_units=16)[0]
    sequence = torch.arange(40).repeat_interleave(x["last"].shape[1])
    expected = cka(x["last"].flatten(0, 1), y["middle"].flatten(0, 1), units=sequence).item()
    assert row["value"] == pytest.approx(expected, abs=1e-10)
