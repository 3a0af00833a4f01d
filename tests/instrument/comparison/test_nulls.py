"""Several rearrangements of the null: which they are, and what follows from them however they are computed."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from dissimilarity import CCA, CKA, RSA, AngularCKA, MutualKNN, Procrustes, compare, compare_many
from dissimilarity.comparison import compare as comparing
from dissimilarity.comparison.activations import ModelActivations, read_chunks
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import make_plan
from dissimilarity.comparison.saved import open_source
from dissimilarity.functional import cka, mutual_knn, procrustes
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.probe.batches import slices_of_process
from dissimilarity.probe.outliers import Control
from dissimilarity.probe.probe_set import Extent, ProbeSet
from dissimilarity.probe.rearrangement import (
    circles,
    exchanged,
    exchanges,
    rearranged,
    shared,
    similar,
)
from tests.helpers.processes import in_processes

S, T, D = 12, 5, 8
MASK = torch.arange(T) < torch.tensor([5, 2, 3, 5, 1, 4, 4, 2, 5, 3, 3, 4])[:, None]
MEASURES = [CKA(), Procrustes(), MutualKNN(k=4)]
NUMBERS = ("value", "null", "null_sd", "p", "null_best", "p_best", "calibrated", "calibrated_stderr")


def sides(seed: int = 0, related: float = 0.5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return two sites of each of two models that share positions and some text."""
    g = torch.Generator().manual_seed(seed)
    position, text = torch.randn(1, T, D, generator=g), torch.randn(S, T, D, generator=g)
    x = {site: text + position + torch.randn(S, T, D, generator=g) for site in "ab"}
    y = {site: related * text + position + torch.randn(S, T, D, generator=g) for site in "cd"}
    return x, y


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 1e-6) -> None:
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        for key in NUMBERS:
            assert row[key] == pytest.approx(other[key], rel=tolerance, abs=tolerance, nan_ok=True), (
                key,
                row["measure"],
            )


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=12), seed=st.integers(0, 5))
def test_every_sample_meets_one_of_another_sequence_at_its_own_position(lengths: list[int], seed: int) -> None:
    """Except at positions that a single sequence has, of which the neighbors take in as many as they must."""
    counts = torch.tensor(lengths)
    sequence = torch.arange(len(lengths)).repeat_interleave(counts)
    position = torch.cat([torch.arange(length) for length in lengths])
    place = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    order = rearranged(sequence, position, place)
    if 2 * max(lengths) > sum(lengths):
        assert order is None
        return
    assert order is not None and sorted(order.tolist()) == list(range(len(sequence)))
    assert not bool((sequence[order] == sequence).any())
    shared = sorted(lengths)[-2]
    if max(lengths) == shared:
        assert torch.equal(position[order], position)
    for at in position.unique().tolist() if max(lengths) == shared else ():
        members = [int(s) for s in place.argsort() if counts[s] > at]
        meets = {int(a): int(b) for a, b in zip(sequence[position == at], sequence[order][position == at], strict=True)}
        assert meets == {a: b for a, b in zip(members, members[1:] + members[:1], strict=True)}


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=13), seed=st.integers(0, 3))
def test_sequences_exchange_places_with_similar_ones_at_positions_they_share(lengths: list[int], seed: int) -> None:
    counts = torch.tensor(lengths)
    sequence = torch.arange(len(lengths)).repeat_interleave(counts)
    start = seed * torch.arange(len(lengths)).remainder(2)[sequence]
    position = start + torch.cat([torch.arange(length) for length in lengths])
    group = similar(counts)
    sizes = group.bincount().tolist()
    members = [(group == number).nonzero()[:, 0].tolist() for number in range(len(sizes))]
    assert max(sizes) < 8
    assert all(max(lengths[s] for s in own) <= 2 * min(lengths[s] for s in own) for own in members)
    longest = [max(lengths[s] for s in own) for own in members]
    assert all(min(lengths[s] for s in own) >= before for own, before in zip(members[1:], longest, strict=False))
    have = [set(position[sequence == s].tolist()) for s in range(len(lengths))]
    common = [set.intersection(*(have[other] for other in members[number])) for number in group.tolist()]
    is_shared = shared(sequence, position, group)
    assert is_shared.tolist() == [int(at) in common[s] for s, at in zip(sequence.tolist(), position, strict=True)]
    permutations, orders = exchanges(group, 8), math.prod(math.factorial(size) for size in sizes)
    assert torch.equal(permutations, exchanges(group, 8)) and len(permutations) == min(8, orders - 1)
    assert len({tuple(taken) for taken in [list(range(len(lengths))), *permutations.tolist()]}) == len(permutations) + 1
    assert bool((group[permutations] == group).all())
    sequence, position = sequence[is_shared], position[is_shared]
    for taken in permutations if len(position) else ():
        order = exchanged(sequence, position, taken)
        assert sorted(order.tolist()) == list(range(len(sequence)))
        assert torch.equal(sequence[order], taken[sequence]) and torch.equal(position[order], position)


def test_exchanges_of_a_group_are_equally_frequent() -> None:
    """All 23 others of four sequences; of 5,000 with seven, each as often in each place, at 1 in 1,000."""
    group = similar(torch.tensor([3, 5, 4, 6]))
    assert sorted(exchanges(group, 2400).tolist()) == sorted(map(list, itertools.permutations(range(4))))[1:]
    drawn = exchanges(torch.zeros(7, dtype=torch.int64), 4000)
    counts = [(drawn[:, place] == sequence).sum().item() for place in range(7) for sequence in range(7)]
    assert stats.chisquare(counts, ddof=12).pvalue > 1e-3


def exchanged_by_hand(x: Tensor, y: Tensor, nulls: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return both sides cut to the shortest sequence of each group: the actual order, and with x exchanged."""
    group, lengths = similar(MASK.sum(1)), MASK.sum(1)
    cut = [int(lengths[group == group[s]].min()) for s in range(S)]
    orders = [torch.arange(S), *exchanges(group, nulls)]
    rows = [torch.cat([x[taken[s], : cut[s]] for s in range(S)]) for taken in orders]
    return rows[0], rows[1:], torch.cat([y[s, : cut[s]] for s in range(S)])


def test_p_of_unequal_lengths_is_that_of_exchanged_sequences() -> None:
    """By hand: every sequence cut to the shortest of its group, in the actual order and in the exchanges."""
    x, y = sides(related=0.0)
    units = torch.cat([torch.full((int(MASK.sum(1)[similar(MASK.sum(1)) == g].min()),), s) for s, g in
                       enumerate(similar(MASK.sum(1)))])  # fmt: skip
    functions = {
        "cka": lambda a, b: -cka(a, b, units=units),
        "procrustes": procrustes,
        "mutual_knn_4": lambda a, b: -mutual_knn(a, b, k=4),
    }
    rows = compare(x, y, measures=MEASURES, mask=MASK, nulls=39).to_pylist()
    for row in rows:
        distance = functions[row["measure"]]
        a, b = (side[row[site]].double() for side, site in ((x, "site_a"), (y, "site_b")))
        actual, others, fixed = exchanged_by_hand(a, b, 39)
        value, nulls = distance(actual, fixed), [distance(other, fixed) for other in others]
        assert row["p"] == pytest.approx((1 + sum(bool(null <= value + 1e-9) for null in nulls)) / 40)
    assert len({row["p"] for row in rows}) > 3


def test_p_of_unequal_lengths_keeps_its_level_where_tokens_are_nearly_the_same(unchecked: None) -> None:
    """16 sequences of 3 to 16 tokens that correlate at 0.9: p is at or below 0.25 in a quarter of unrelated models."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.linspace(3, 16, 16).round().long()
    mask, draws = torch.arange(16) < lengths[:, None], 120
    small = 0
    for _ in range(draws):
        x, y = (
            {"s": 0.95 * torch.randn(16, 1, 4, generator=g) + 0.3 * torch.randn(16, 16, 4, generator=g)} for _ in "xy"
        )
        (row,) = compare(x, y, measures=[Procrustes()], mask=mask, nulls=3).to_pylist()
        small += row["p"] <= 0.25
    assert stats.binomtest(small, draws, 0.25).pvalue > 0.01


def test_a_group_that_shares_no_position_is_left_out_of_p() -> None:
    """Four sequences that each lost another of their two positions have none in common."""
    x, y = sides(related=0.0)
    x = {"a": x["a"][:, :2].clone()}
    for at in range(S):
        x["a"][at, at % 2] *= 50
    (row,) = compare(x, {"c": y["c"][:, :2]}, measures=[Procrustes()], nulls=19,
                     control=Control(drop_top_norm=1)).to_pylist()  # fmt: skip
    assert math.isnan(row["p"]) or 0.05 <= row["p"] <= 1


def test_each_site_is_prepared_once_for_the_value_and_once_for_p(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sides()
    prepared: list[int] = []
    prepare = MutualKNN.prepare_sequences

    def counted(measure: MutualKNN, samples: Tensor, sequence: Tensor) -> Any:
        prepared.append(len(samples))
        return prepare(measure, samples, sequence)

    monkeypatch.setattr(MutualKNN, "prepare_sequences", counted)
    models = {"x": x, "y": y, "z": {"e": x["a"] + y["c"]}}
    loaders = {name: lambda model=model: model for name, model in models.items()}
    compare_many(loaders, measures=[MutualKNN(k=4)], mask=MASK, nulls=3)
    assert sorted(Counter(prepared).values()) == [5, 5]


def related_sites() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = ({f"s{site}": torch.randn(16, 4, 6, generator=generator) for site in range(3)} for _ in "xy")
    return x, {site: samples + x["s0"] for site, samples in y.items()}


def test_a_site_is_rearranged_once_for_all_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related_sites()
    moved, rearrange = [], RSA.rearrange
    monkeypatch.setattr(RSA, "rearrange", lambda *args: moved.append(args) or rearrange(*args))
    rows = compare(x, y, measures=[RSA()], nulls=19).to_pylist()
    assert len(moved) == 3 * 19 + 9  # and once for the error bar of each pair's null
    alone = [compare({a: x[a]}, {b: y[b]}, measures=[RSA()], nulls=19).to_pylist()[0] for a in x for b in y]
    for row, expected in zip(rows, alone, strict=True):
        assert (row["null"], row["null_sd"], row["p"]) == (expected["null"], expected["null_sd"], expected["p"])


def test_a_partner_that_fails_in_a_rearrangement_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related_sites()
    expected = compare(x, y, measures=[RSA()], nulls=19).to_pylist()
    failing, of_partners = RSA().prepare(y["s1"].flatten(0, 1)), RSA.rearranged_values

    def fail(measure: RSA, first: Any, partners: Sequence[Any], orders: Tensor) -> Tensor:
        if any(torch.equal(partner.values, failing.values) for partner in partners):
            raise ValueError("not with this one")
        return of_partners(measure, first, partners, orders)

    monkeypatch.setattr(RSA, "rearranged_values", fail)
    for row, same in zip(compare(x, y, measures=[RSA()], nulls=19).to_pylist(), expected, strict=True):
        assert math.isfinite(row["value"])
        assert math.isnan(row["p"]) if row["site_b"] == "s1" else row["p"] == same["p"]


def test_a_mask_beside_pooling_is_no_unequal_length() -> None:
    """Each sequence is one sample: the null, and the p value, are those of the pooled samples themselves."""
    x, y = sides(related=0.0)
    a, b = ({"s": (acts * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True)} for acts in (x["a"], y["c"]))
    measures = [CKA(), Procrustes(crossfit=True)]
    expected = compare(a, b, measures=measures, nulls=9).to_pylist()
    rows = compare({"s": x["a"]}, {"s": y["c"]}, measures=measures, mask=MASK, pool="mean", nulls=9).to_pylist()
    for row, other in zip(rows, expected, strict=True):
        assert row["note"] == other["note"] and math.isfinite(row["null"])
        assert all(row[key] == pytest.approx(other[key], rel=1e-5, nan_ok=True) for key in NUMBERS)


def test_measures_beside_one_that_reads_kernels_keep_their_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of torchmetrics compare as equal, so none may be looked up among others."""
    monkeypatch.setattr(MomentMeasure, "prefers_kernels", staticmethod(lambda *sizes: True))
    x, y = sides()
    measures = [Procrustes(), CKA(), CCA()]
    together = compare(x, y, measures=measures, nulls=9).to_pylist()
    alone = [row for measure in measures for row in compare(x, y, measures=[measure], nulls=9).to_pylist()]
    by_place = {(row["measure"], row["site_a"], row["site_b"]): row for row in alone}
    for row in together:
        other = by_place[row["measure"], row["site_a"], row["site_b"]]
        assert math.isfinite(row["p"]) and math.isfinite(row["null_sd"])
        assert all(row[key] == pytest.approx(other[key], rel=1e-6, nan_ok=True) for key in NUMBERS)


def test_circles_are_different_and_always_the_same() -> None:
    for sequences, count in ((4, 6), (7, 100), (9, 500), (32, 200)):
        drawn = circles(torch.ones(sequences, dtype=torch.int64), count).argsort(1)
        following = drawn.roll(-1, 1).gather(1, drawn.argsort(1))
        assert len({tuple(row) for row in following.tolist()}) == count
        assert not bool((following == torch.arange(sequences)).any())


def test_circles_go_from_short_to_long() -> None:
    for sequences, count in ((5, 24), (9, 500), (32, 200)):
        lengths = torch.randint(3, 40, (sequences,), generator=torch.Generator().manual_seed(sequences))
        drawn = circles(lengths, count).argsort(1)
        assert len({tuple(row) for row in drawn.tolist()}) == count
        steps = (lengths[drawn] - lengths[drawn.roll(1, 1)]).abs().sum(1)
        around = 2 * int(lengths.max() - lengths.min())
        assert int(steps.min()) == around <= int(steps[0]) and (sequences < 9 or steps.double().mean() < 4 * around)


def test_p_is_that_of_scipy_over_all_rearrangements() -> None:
    """SciPy takes all permutations, of which the circles are those with a single cycle."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(5, 3, generator=g, dtype=torch.float64)
    y = x @ torch.randn(3, 4, generator=g, dtype=torch.float64) + torch.randn(5, 4, generator=g, dtype=torch.float64)
    (row,) = compare({"x": x}, {"y": y}, measures=[CKA(debiased=False)], nulls=24).to_pylist()

    def statistic(order: Any) -> float:
        return cka(x[np.asarray(order, dtype=int)], y, debiased=False).item()

    result = stats.permutation_test(
        (np.arange(5),), lambda order: statistic(order), permutation_type="pairings", n_resamples=10**4,
        vectorized=False, alternative="greater",
    )  # fmt: skip
    everything = sorted(statistic(order) for order in itertools.permutations(range(5)))
    assert sorted(result.null_distribution) == pytest.approx(everything)
    single = [order for order in itertools.permutations(range(5)) if cycle(order) == 5]
    null = np.array([statistic(order) for order in single])
    assert row["null"] == pytest.approx(null.mean()) and row["null_sd"] == pytest.approx(null.std(ddof=1))
    exchanged = [statistic(order) for order in exchanges(torch.zeros(5, dtype=torch.int64), 24).tolist()]
    assert row["p"] == (1 + sum(value >= result.statistic - 1e-12 for value in exchanged)) / 25


def cycle(order: tuple[int, ...]) -> int:
    """Return the length of the cycle that holds 0."""
    at, length = order[0], 1
    while at:
        at, length = order[at], length + 1
    return length


@pytest.mark.parametrize("masked", [False, True])
def test_saved_run_streamed_and_in_blocks_are_the_same(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in memory together, and in files."""
    x, y = sides()
    options: Any = {"measures": MEASURES, "nulls": 7, "mask": MASK if masked else None, "n_units": 4}
    expected = compare(x, y, **options).to_pylist()
    present = [key for key in NUMBERS if not (masked and key.startswith("calibrated"))]
    assert {math.isfinite(row[key]) for row in expected for key in present} == {True}

    class Net(nn.Module):
        def __init__(self, acts: dict[str, Tensor]) -> None:
            super().__init__()
            self.acts, self.scale = acts, nn.Parameter(torch.ones(()))
            self.sites = nn.ModuleDict({site: nn.Identity() for site in acts})

        def forward(self, numbers: Tensor) -> Tensor:
            return torch.stack([self.sites[site](acts[numbers[:, 0]] * self.scale) for site, acts in self.acts.items()])

    numbers = torch.arange(S)[:, None].expand(S, T)
    nets = [Net(acts) for acts in (x, y)]
    rows = compare(nets[0], nets[1], numbers, ["sites.*"], **options).to_pylist()
    assert_same(rows, expected)
    monkeypatch.setattr("dissimilarity.comparison.activations.IN_MEMORY", 0)
    monkeypatch.setattr("dissimilarity.comparison.nulls.SITES_TOGETHER", 0)
    assert_same(compare(nets[0], nets[1], numbers, ["sites.*"], **options).to_pylist(), expected)
    monkeypatch.setattr("dissimilarity.comparison.activations.PAIR_SUMS", 0)
    many = compare_many({"x": nets[0], "y": nets[1]}, numbers, ["sites.*"], **options).to_pylist()
    assert_same(many, expected, 1e-5)


def test_kernels_give_what_sums_give(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sides()
    measures = [CKA(), AngularCKA()]
    expected = compare(x, y, measures=measures, nulls=60).to_pylist()
    monkeypatch.setattr(MomentMeasure, "prefers_kernels", staticmethod(lambda *sizes: True))
    rows = compare(x, y, measures=measures, nulls=60).to_pylist()
    assert_same(rows, expected, 1e-6)
    assert any(row["null"] != other["null"] for row, other in zip(rows, expected, strict=True))


def test_the_null_of_the_best_pair_is_the_best_of_each_rearrangement() -> None:
    x, y = sides()
    rows = compare(x, y, measures=[CKA()], nulls=19).to_pylist()
    nulls = {}
    for a, b in itertools.product(x, y):
        values = []
        for place in circles(torch.ones(S, dtype=torch.int64), 19):
            order = place.argsort().roll(-1)[place]
            sequence = torch.arange(S).repeat_interleave(T)
            values.append(cka(x[a][order].flatten(0, 1), y[b].flatten(0, 1), units=sequence).item())
        nulls[a, b] = np.array(values)
    best = np.max(list(nulls.values()), 0)
    for row in rows:
        assert row["null"] == pytest.approx(nulls[row["site_a"], row["site_b"]].mean(), abs=1e-6)
        assert row["null_best"] == pytest.approx(best.mean(), abs=1e-6) and row["null_best"] > row["null"]
        assert row["p_best"] == (1 + (best >= row["value"]).sum()) / 20 >= row["p"]


def test_positions_that_differ_because_some_were_dropped_are_kept() -> None:
    """The j-th of the positions that remain is not the same in each sequence."""
    x, y = sides(related=0.0)
    for at in range(S):
        x["a"][at, at % T] *= 50
    (row,) = compare({"a": x["a"]}, {"c": y["c"]}, measures=[CKA()], control=Control(drop_top_norm=1)).to_pylist()
    kept = [[t for t in range(T) if t != at % T] for at in range(S)]
    sequence = torch.arange(S).repeat_interleave(T - 1)
    order = rearranged(sequence, torch.tensor(kept).flatten(), circles(torch.ones(S, dtype=torch.int64), 1)[0])
    assert order is not None
    flat = [torch.stack([acts[at, kept[at]] for at in range(S)]).flatten(0, 1) for acts in (x["a"], y["c"])]
    value = cka(flat[0][order], flat[1], units=sequence)
    self_terms = cka(flat[0], flat[1], units=sequence) / row["value"]
    assert row["null"] == pytest.approx(value.item(), abs=0.02) and self_terms == pytest.approx(1, abs=1e-4)


def of_processes(rank: int, world: int, masked: bool) -> list[dict[str, Any]]:
    """Return the records of one process."""
    plan = make_plan(ProbeSet(Extent(S, T), MASK if masked else None, n_units=4), MEASURES)
    slices = slices_of_process(plan.slices, rank, world)
    models = []
    for name, acts in zip("xy", sides(), strict=True):
        chunks = list(read_chunks(open_source(acts, name), None, list(acts), plan, slices=slices))
        models.append(ModelActivations(plan, list(acts), chunks, sync=world > 1).summed())
    records = compare_pair(models[0], models[1], [(a, b) for a in "ab" for b in "cd"], MEASURES, 5)
    return comparing.in_order(records, [(a, b) for a in "ab" for b in "cd"], MEASURES)


def test_two_processes_give_the_nulls_of_one(tmp_path: Path) -> None:
    for masked in (False, True):
        *_, rows = in_processes(lambda masked=masked: of_processes(dist.get_rank(), 2, masked), tmp_path / str(masked))
        assert_same(rows, of_processes(0, 1, masked), 1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_p_is_uniform_for_models_that_share_positions_alone_and_small_for_related_ones(
    unchecked: None, masked: bool
) -> None:
    shares = {}
    for related in (0.0, 1.0):
        p = []
        for seed in range(8 if related else 24):
            x, y = sides(seed, related)
            correlated = torch.randn(S, 1, D, generator=torch.Generator().manual_seed(seed))
            rows = compare(
                {"a": x["a"] + correlated - (0 if related else x["a"].mean(1, keepdim=True))}, {"c": y["c"]},
                measures=[CKA()], nulls=19, mask=MASK if masked else None,
            ).to_pylist()  # fmt: skip
            p.append(rows[0]["p"])
        shares[related] = np.array(p)
    assert stats.kstest(shares[0.0] - 0.025, "uniform").pvalue > 0.01
    assert (shares[1.0] <= 0.05).mean() > 0.5


@pytest.mark.parametrize(
    ("nulls", "message"),
    [
        (0, "nulls: expected a whole number of rearrangements, 1 or more, found 0"),
        (True, "found True"),
        (7, "nulls=7: 4 sequences can be put into 6 different circles; pass at most nulls=6, or more sequences"),
    ],
)
def test_more_rearrangements_than_there_are_are_refused(nulls: Any, message: str) -> None:
    x, y = ({site: acts[:4] for site, acts in side.items()} for side in sides())
    for entry in (
        lambda: compare(x, y, nulls=nulls),
        lambda: compare_many({"a": x, "b": y}, nulls=nulls),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            entry()
        assert message in str(caught.value)
    assert compare(x, y, nulls=6, measures=[CKA(debiased=False)]).num_rows == 4


def test_the_number_of_nulls_does_not_touch_the_error_bars() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, 6, generator=generator)
    y = x + torch.randn(16, 8, 6, generator=generator)
    measures = [CKA(), CKA(units="sample"), Procrustes(), CCA()]
    one, several = (compare({"x": x}, {"x": y}, measures=measures, nulls=nulls)["stderr"] for nulls in (1, 5))
    assert one.to_pylist() == several.to_pylist() and all(error > 0 for error in one.to_pylist())
