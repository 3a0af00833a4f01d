"""Masks: padding is no sample of any measure, null or error bar, whatever stands there."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dissimilarity import CKA, JSD, RBFCKA, MutualKNN, Procrustes, compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.plan import lay_out
from dissimilarity.functional import cka, mutual_knn
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.probe.batches import plan
from dissimilarity.probe.outliers import Control
from dissimilarity.probe.padding import uneven_plan
from dissimilarity.probe.sampling import priorities
from dissimilarity.tables.curves import read_curves
from tests.helpers import oracles, sample_oracles
from tests.helpers.found_measures import SETTINGS, make
from tests.helpers.oracles import Array

SEQUENCES, POSITIONS, VOCABULARY = 18, 9, 300
LENGTHS = torch.tensor([9, 2, 5, 4, 7, 1, 3, 9, 6, 5, 2, 8, 4, 4, 9, 3, 6, 5])
MASK = torch.arange(POSITIONS) < LENGTHS[:, None]


class Positionwise(nn.Module):
    """Rows and logits are looked up by token and place, to the last bit; garbage stands at every token 0."""

    def __init__(self, width: int, seed: int, garbage: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(VOCABULARY, POSITIONS + 20, width, generator=torch.Generator().manual_seed(9))
        self.rows = nn.Parameter(shared + torch.randn(shared.shape, generator=generator) + 2)
        self.outputs = nn.Parameter(2 * torch.randn(VOCABULARY, POSITIONS + 20, 5, generator=generator))
        self.first = nn.Identity()
        self.garbage = garbage

    def looked_up(self, table: Tensor, tokens: Tensor) -> Tensor:
        return torch.where((tokens == 0)[..., None], self.garbage, table[tokens, torch.arange(tokens.shape[1])])

    def forward(self, tokens: Tensor) -> Tensor:
        self.first(self.looked_up(self.rows, tokens))
        return self.looked_up(self.outputs, tokens)


def tokens(extra: int = 0) -> Tensor:
    """Token 0 where padded."""
    found = torch.randint(1, VOCABULARY, (SEQUENCES, POSITIONS), generator=torch.Generator().manual_seed(0))
    return nn.functional.pad(torch.where(MASK, found, 0), (0, extra))


def longer(extra: int) -> Tensor:
    return nn.functional.pad(MASK, (0, extra))


def real_rows(net: Positionwise, site: str) -> Tensor:
    """The rows of real tokens, sequence by sequence, float64; of the model itself, not through the instrument."""
    rows = net.looked_up(net.outputs if site == "logits" else net.rows, tokens())
    return torch.cat([of[:length] for of, length in zip(rows, LENGTHS, strict=True)]).detach().double()


def sides(garbage: float = 0.0) -> tuple[Positionwise, Positionwise]:
    return Positionwise(6, 0, garbage), Positionwise(7, 1, garbage)


ORACLES: dict[str, Callable[[Array, Array], float]] = {
    "angular_cka": oracles.angular_cka,
    "angular_cka_biased": oracles.angular_cka_biased,
    "bures": oracles.bures,
    "cca": oracles.cca_mean,
    "cca_mean_square": oracles.cca_mean_square,
    "cca_r2": oracles.cca_r2,
    "cka": oracles.debiased_cka,
    "cka_biased": oracles.biased_cka,
    "cka_mean_of_ratios": lambda x, y: sample_oracles.cka_mean_of_ratios(x, y, len(x)),
    "cka_ratio_of_means": lambda x, y: sample_oracles.cka_ratio_of_means(x, y, len(x)),
    "disagreement": sample_oracles.disagreement,
    "distance_correlation": sample_oracles.distance_correlation,
    "distance_correlation_debiased": sample_oracles.distance_correlation_debiased,
    "gulp": oracles.gulp,
    "jaccard_knn": sample_oracles.jaccard_knn,
    "jsd": sample_oracles.jsd,
    "kl": sample_oracles.kl,
    "linear_regression": oracles.linear_regression,
    "mutual_knn": sample_oracles.mutual_knn,
    "permutation_procrustes": oracles.permutation_procrustes_angle,
    "permutation_procrustes_squared": oracles.permutation_procrustes_squared,
    "procrustes": oracles.procrustes_angle,
    "procrustes_squared": oracles.procrustes_squared,
    "pwcca": oracles.pwcca,
    "rbf_cka": sample_oracles.rbf_cka,
    "rbf_cka_biased": sample_oracles.rbf_cka_biased,
    "rsa": sample_oracles.rsa,
    "rsa_pearson": lambda x, y: sample_oracles.rsa(x, y, compare="pearson"),
    "rsa_sqeuclidean": lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean"),
    "rsa_sqeuclidean_pearson": lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean", "pearson"),
    "svcca": oracles.svcca,
}
MEASURES = [make(setting) for setting in SETTINGS]


@lru_cache(None)
def expected() -> dict[str, tuple[str, float]]:
    """Site and value of every measure, over the real rows."""
    found = {}
    for setting, measure in zip(SETTINGS, MEASURES, strict=True):
        site = "logits" if setting in ("disagreement", "kl", "jsd") else "first"
        x, y = (real_rows(net, site).numpy() for net in sides())
        found[measure.label] = site, ORACLES[setting](x, y)
    return found


def through_compare(garbage: float, extra: int) -> list[dict[str, Any]]:
    a, b = sides(garbage)
    options: Any = {"groups": 5, "mask": longer(extra)}
    return compare(a, b, tokens(extra), "first", MEASURES, **options).to_pylist()


def through_many(garbage: float, extra: int) -> list[dict[str, Any]]:
    a, b = sides(garbage)
    options: Any = {"groups": 5, "mask": longer(extra)}
    return compare_many({"a": a, "b": lambda: b}, tokens(extra), "first", MEASURES, **options).to_pylist()


def through_saved(garbage: float, extra: int) -> list[dict[str, Any]]:
    saved = [
        {
            site: net.looked_up(table, tokens(extra)).detach()
            for site, table in (("first", net.rows), ("logits", net.outputs))
        }
        for net in sides(garbage)
    ]
    options: Any = {"groups": 5, "mask": longer(extra)}
    return compare(saved[0], saved[1], None, "first", MEASURES, **options).to_pylist()


@pytest.mark.parametrize(("garbage", "extra"), [(0.0, 0), (math.nan, 3), (math.inf, 11)])
@pytest.mark.parametrize("through", [through_compare, through_many, through_saved])
def test_every_measure_is_its_value_over_the_real_rows(through: Any, garbage: float, extra: int) -> None:
    rows, wanted = through(garbage, extra), expected()
    assert len(rows) == len(wanted) == len(SETTINGS) >= 30
    for row in rows:
        site, value = wanted[row["measure"]]
        assert row["value"] == pytest.approx(value, abs=2e-5), row
        assert (row["site_a"], row["n_samples"], row["note"]) == (site, int(LENGTHS.sum()), "")
        assert math.isfinite(row["stderr"]) and math.isfinite(row["null"])
        if site == "first":
            of = np.linalg.eigvalsh(np.cov(real_rows(sides()[0], "first").numpy().T))
            assert row["first_pc_a"] == pytest.approx(of[-1] / of.sum(), rel=1e-5)


def test_more_padding_and_what_stands_there_change_no_bit() -> None:
    def numbers(rows: list[dict[str, Any]]) -> list[str]:
        return [repr(list(row.values())) for row in rows]

    first = numbers(through_compare(0.0, 0))
    assert numbers(through_compare(math.nan, 4)) == first
    assert [row.replace("'a', 'b', ", "") for row in numbers(through_many(math.inf, 0))] == first


def test_a_mask_of_ones_changes_no_bit() -> None:
    a, b = sides()
    plain = compare(a, b, tokens(), "first", MEASURES, groups=5).to_pylist()
    masked = compare(a, b, tokens(), "first", MEASURES, groups=5, mask=torch.ones_like(MASK)).to_pylist()
    assert repr(masked) == repr(plain)


def test_a_mask_that_leaves_sequences_of_one_length_is_the_shorter_probe_set() -> None:
    """The same groups and the same null: a shift by one sequence."""
    (a, b), few = sides(), tokens().clamp(1)
    mask = torch.zeros_like(MASK)
    mask[:, :4] = True
    measures = [CKA(), Procrustes(), MutualKNN(k=5), JSD()]
    short = compare(a, b, few[:, :4], "first", measures, groups=5).to_pylist()
    for found, wanted in zip(
        compare(a, b, few, "first", measures, groups=5, mask=mask).to_pylist(), short, strict=True
    ):
        for key, value in wanted.items():
            assert found[key] == (pytest.approx(value, rel=1e-6, nan_ok=True) if isinstance(value, float) else value)


def by_hand() -> tuple[list[Array], Any, list[tuple[int, int, int]], Any]:
    """Rows of both sides, the sequence of each row, the chunks, and the group of each row."""
    slices = lay_out(tokens(), [CKA()], 5, mask=MASK).slices
    sequence = torch.arange(SEQUENCES).repeat_interleave(LENGTHS).numpy()
    group = np.array([next(of for start, stop, of in slices if start <= at < stop) for at in sequence])
    return [real_rows(net, "first").numpy() for net in sides()], sequence, slices, group


def test_the_null_is_the_value_of_compacted_rows_shifted_by_hand() -> None:
    (x, y), sequence, slices, group = by_hand()
    found_rows: list[int] = []
    for start, stop, of in slices:
        rows = np.flatnonzero((start <= sequence) & (sequence < stop))
        found_rows += np.roll(rows, -int(max((sequence[group == of] == at).sum() for at in range(SEQUENCES)))).tolist()
    longest = np.roll(np.arange(len(x)), int(LENGTHS.max()))
    assert len(slices) > 2 and sorted(found_rows) == list(range(len(x)))
    moved = np.array(found_rows, dtype=np.int64)
    assert not (sequence[moved] == sequence).any() and not (sequence[longest] == sequence).any()
    found = {row["measure"]: row["null"] for row in through_compare(0.0, 0)}
    for setting in ("cka", "procrustes", "linear_regression", "gulp"):
        assert found[setting] == pytest.approx(ORACLES[setting](x[moved], y), abs=2e-5), setting
    for setting in ("rsa", "mutual_knn", "distance_correlation", "rbf_cka"):
        assert found[setting] == pytest.approx(ORACLES[setting](x, y[longest]), abs=2e-5), setting


def test_standard_errors_are_those_of_unequal_groups_by_hand() -> None:
    """The value without each group, or of a measure that goes by its derivative the influence, by differences."""
    (x, y), _, _, group = by_hand()
    groups = 1 + int(group.max())
    assert len(set(np.bincount(group).tolist())) > 1

    def weighted(weight: Array) -> float:
        of_rows = weight[group]
        a, b = (z - of_rows @ z / of_rows.sum() for z in (x, y))
        cross, own_a, own_b = (first.T @ (of_rows[:, None] * second) for first, second in ((a, b), (a, a), (b, b)))
        return float(np.arccos(np.linalg.norm(cross, "nuc") / np.sqrt(np.trace(own_a) * np.trace(own_b))))

    step = 1e-5 * np.eye(groups)
    influence = np.array([(weighted(1 + of) - weighted(1 - of)) / 2e-5 for of in step])
    found = {row["measure"]: row["stderr"] for row in through_compare(0.0, 0)}
    assert found["procrustes"] == pytest.approx(influence.std() * groups / math.sqrt(groups - 1), rel=1e-4)
    for setting in ("cka", "cka_biased", "distance_correlation"):
        left_out = np.array([ORACLES[setting](x[group != of], y[group != of]) for of in range(groups)])
        assert found[setting] == pytest.approx(left_out.std() * math.sqrt(groups - 1), rel=1e-5), setting


def test_the_error_bar_is_about_the_spread_over_probe_sets_of_unequal_sequences() -> None:
    """Tokens of a sequence share a part, so that rows are not independent, and lengths differ up to tenfold."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        lengths = torch.randint(2, 21, (64,), generator=generator)
        mask = torch.arange(20) < lengths[:, None]
        topic, noise = torch.randn(64, 1, 5, generator=generator), torch.randn(64, 20, 5, generator=generator)
        y = topic + 0.5 * noise + torch.randn(64, 20, 5, generator=generator)
        rows = compare(
            {"s": topic + noise}, {"s": y}, measures=[CKA(), RBFCKA(samples=300)], mask=mask, null=False
        ).to_pylist()
        found.append([[row["value"], row["stderr"]] for row in rows])
    value, stderr = np.array(found).transpose(2, 1, 0)
    ratio = stderr.mean(1) / value.std(1, ddof=1)
    assert ((0.75 < ratio) & (ratio < 1.35)).all(), ratio


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_pooling_runs_over_real_positions(pool: Any) -> None:
    """Real ones may lie anywhere, as of padding on the left."""
    mask = MASK.flip(1)
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    take: Any = {"mean": lambda rows: rows.mean(0), "first": lambda rows: rows[0], "last": lambda rows: rows[-1]}[pool]
    pooled = [torch.stack([take(of[real]) for of, real in zip(z, mask, strict=True)]).double() for z in (x, y)]
    spoilt = [z.masked_fill(~mask[..., None], math.nan) for z in (x, y)]
    rows = compare({"s": spoilt[0]}, {"s": spoilt[1]}, measures=[CKA(), MutualKNN(k=3)], pool=pool, mask=mask)
    for row, function in zip(rows.to_pylist(), (cka, lambda a, b: mutual_knn(a, b, k=3)), strict=True):
        assert row["value"] == pytest.approx(function(pooled[0], pooled[1]).item(), abs=1e-5)
        assert row["n_samples"] == SEQUENCES and math.isfinite(row["null"]) and math.isfinite(row["stderr"])


def test_pooled_sites_stand_beside_the_logits_of_real_positions() -> None:
    a, b = sides(math.nan)
    (row,) = compare(a, b, tokens(), "first", [JSD()], pool="last", mask=MASK).to_pylist()
    assert row["value"] == pytest.approx(expected()["jsd"][1], abs=1e-6) and row["n_samples"] == int(LENGTHS.sum())


def test_what_has_no_positions_is_one_real_row_a_sequence() -> None:
    """As the logits of a classifier, beside sites that have positions."""
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    of_x, of_y = torch.randn(2, SEQUENCES, 3).unbind(0)
    rows = compare({"s": x, "logits": of_x}, {"s": y, "logits": of_y}, measures=[CKA(), JSD()], mask=MASK).to_pylist()
    assert {row["measure"]: row["n_samples"] for row in rows} == {"cka": int(LENGTHS.sum()), "jsd": SEQUENCES}
    assert rows[1]["value"] == pytest.approx(sample_oracles.jsd(of_x.double().numpy(), of_y.double().numpy()), abs=1e-6)
    assert math.isfinite(rows[1]["null"]) and math.isfinite(rows[1]["stderr"])


def test_a_control_counts_places_of_the_sequence_and_norms_of_real_positions() -> None:
    mask = MASK[LENGTHS > 3]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, len(mask), POSITIONS, 4, generator=generator).unbind(0)
    size = torch.maximum(*(z.norm(dim=-1) / z.norm(dim=-1)[:, 1:][mask[:, 1:]].median() for z in (x, y)))
    kept = []
    for sequence, real in enumerate(mask):
        places = [at for at in range(1, POSITIONS) if real[at]]
        largest = max(places, key=lambda at: float(size[sequence, at]))  # noqa: B023
        kept += [(sequence, at) for at in places if at != largest]
    rows_x, rows_y = (torch.stack([z[place] for place in kept]).double() for z in (x, y))
    wanted = cka(rows_x, rows_y).item()
    spoilt = [z.masked_fill(~mask[..., None], garbage) for z, garbage in ((x, math.nan), (y, 1e9))]
    for both in ((x, y), spoilt):
        control = Control(skip_first=1, drop_top_norm=1)
        (row,) = compare({"s": both[0]}, {"s": both[1]}, measures=[CKA()], mask=mask, control=control).to_pylist()
        assert row["value"] == pytest.approx(wanted, abs=1e-6) and row["n_samples"] == len(kept)
        options: Any = {"measures": [CKA()], "mask": mask, "control": control}
        (many,) = compare_many({"a": {"s": both[0]}, "b": {"s": both[1]}}, **options).to_pylist()
        assert many["value"] == row["value"]


def test_sample_measures_see_seeded_rows_out_of_the_real_ones() -> None:
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    measures = [MutualKNN(k=3, samples=40), MutualKNN(k=4, samples=30, seed=7)]
    rows = compare({"s": x}, {"s": y}, measures=measures, mask=MASK).to_pylist()
    held = priorities(0, int(LENGTHS.sum()), 0).argsort()[:40].sort().values
    few = held[priorities(0, 40, 7).argsort()[:30].sort().values]
    for row, seen, k in zip(rows, (held, few), (3, 4), strict=True):
        assert row["value"] == pytest.approx(mutual_knn(x[MASK][seen], y[MASK][seen], k=k).item(), abs=1e-6)
        assert row["n_samples"] == len(seen)


@pytest.mark.parametrize("at_once", [POSITIONS, 4 * POSITIONS])
def test_chunks_and_files_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    measures = [CKA(), Procrustes(), MutualKNN(samples=40, k=5), JSD(samples=50)]
    mask = MASK.repeat(4, 1)
    text = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    (a, b), options = sides(), {"groups": 3, "mask": mask}
    whole = compare(a, b, text, "first", measures, **options).to_pylist()  # pyright: ignore
    monkeypatch.setattr("dissimilarity.probe.batches.TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr("dissimilarity.comparison.activations.IN_MEMORY", 0)
    assert len(lay_out(text, measures, 3, mask=mask).slices) > 6
    parts = compare(a, b, text, "first", measures, **options).to_pylist()  # pyright: ignore
    many = compare_many({"a": a, "b": b}, text, "first", measures, **options).to_pylist()  # pyright: ignore
    for rows in (parts, many):
        for row, wanted in zip(rows, whole, strict=True):
            assert row["value"] == pytest.approx(wanted["value"], abs=1e-6)
            # the first chunk, whose mean the sums are taken about, is another: of order 1 / n in the influences
            assert row["stderr"] == pytest.approx(wanted["stderr"], rel=0.15)
            assert row["n_samples"] == wanted["n_samples"] and math.isfinite(row["null"])


LENGTH_LISTS = st.lists(st.integers(1, 40), min_size=2, max_size=80)


@settings(max_examples=80, deadline=None)
@given(lengths=LENGTH_LISTS, groups=st.integers(1, 20), at_most=st.integers(1, 30))
def test_no_row_of_any_chunk_meets_its_own_sequence(lengths: list[int], groups: int, at_most: int) -> None:
    counts = torch.tensor(lengths)
    if 2 * max(lengths) > sum(lengths):
        with pytest.raises(ValueError, match="no sequence with more than half of all real positions"):
            uneven_plan(plan(len(lengths), groups, at_most), counts)
        return
    slices = uneven_plan(plan(len(lengths), groups, at_most), counts)
    assert [i for start, stop, _ in slices for i in range(start, stop)] == list(range(len(lengths)))
    numbers = [group for _, _, group in slices]
    assert numbers == sorted(numbers) and set(numbers) == set(range(numbers[-1] + 1))
    for start, stop, group in slices:
        longest = max(int(counts[a:b].max()) for a, b, of in slices if of == group)
        sequence = torch.arange(start, stop).repeat_interleave(counts[start:stop])
        assert not bool((sequence.roll(longest) == sequence).any())


def test_sequences_of_one_length_are_cut_as_without_a_mask() -> None:
    for sequences, groups, at_most in ((33, 16, 4), (100, 5, 3), (7, 3, 50)):
        slices = plan(sequences, groups, at_most)
        assert uneven_plan(slices, torch.full((sequences,), 5)) == slices


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (MASK[:-1], {}, r"mask of bool and of shape \(18, 9\), .* found torch.bool and \(17, 9\)"),
        (MASK[:, :-1], {}, r"shape \(18, 9\), .* \(18, 8\)"),
        (MASK.long(), {}, "mask of bool .* found torch.int64"),
        (MASK & (torch.arange(SEQUENCES) != 4)[:, None], {}, "none in 1 of them, the first of which is sequence 4"),
        (MASK, {"positions": 3}, "a mask or a number of positions, found both"),
        (MASK, {"control": Control(skip_first=2)}, "no real position of 3 sequences, .* sequence 1 with 2; lower them"),
        (MASK, {"control": Control(drop_top_norm=3)}, "no real position of 5 sequences"),
        (torch.eye(SEQUENCES, POSITIONS, dtype=torch.bool)[:8], {}, r"found torch.bool and \(8, 9\)"),
    ],
)
def test_what_is_no_mask_is_refused(unchecked: None, mask: Tensor, options: dict[str, Any], message: str) -> None:
    a, b = sides()
    with pytest.raises(ValueError, match=message):
        compare(a, b, tokens(), "first", [CKA()], mask=mask, **options)
    with pytest.raises(ValueError, match=message):
        compare_many({"a": a, "b": b}, tokens(), "first", [CKA()], mask=mask, **options)


def test_a_site_of_other_positions_is_refused() -> None:
    other = {"s": torch.randn(SEQUENCES, POSITIONS, 3), "t": torch.randn(SEQUENCES, 4, 3)}
    with pytest.raises(ValueError, match="a mask of as many positions as the sites have, found 9 and 4"):
        compare(other, other, measures=[CKA()], mask=MASK)


class Training(pl.LightningModule):
    """Three tables of rows by token and place, each learned; rows of padding never reach those of real tokens."""

    def __init__(self, garbage: float = 0.0) -> None:
        super().__init__()
        self.net = Positionwise(6, 0, garbage)
        self.second = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.net(tokens)
        self.second(torch.sin(self.net.looked_up(self.net.rows, tokens)))
        return logits

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self(batch)[batch > 0] ** 2).mean() + (self.net.rows[batch[batch > 0]] ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 10.0)


def tracked(folder: Path, garbage: float, extra: int, **options: Any) -> tuple[Training, list[dict[str, Any]]]:
    module = Training(garbage)
    tracker = DissimilarityTracker(
        ["init", "previous"],
        MEASURES,
        tokens(extra),
        folder,
        **{"sites": ["net.first", "second"], "every": 2, "heatmap_every": 2, "groups": 5, "budget": 1.0} | options,
        mask=longer(extra),
    )
    loader = torch.utils.data.DataLoader(tokens(), batch_size=6)  # pyright: ignore[reportArgumentType]
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, callbacks=[tracker], **quiet)
    trainer.fit(module, loader)
    return module, read_curves(folder).to_pylist()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dissimilarity.tracking.tables.draw_run", lambda folder, formats: [])


def test_the_tracker_measures_real_rows_alone(tmp_path: Path, undrawn: None) -> None:
    module, rows = tracked(tmp_path, math.nan, 2)
    last = [row for row in rows if row["step"] == 2 and row["reference"] == "init"]
    assert {row["measure"] for row in last} == {measure.label for measure in MEASURES}
    before = Training()
    for row in last:
        if row["site_a"] == row["site_b"] != "second":
            site = "logits" if row["site_a"] == "logits" else "first"
            x, y = (real_rows(of.net, site).numpy() for of in (module, before))
            setting = dict(zip((measure.label for measure in MEASURES), SETTINGS, strict=True))[row["measure"]]
            if not setting.startswith("cka_"):
                assert row["value"] == pytest.approx(ORACLES[setting](x, y), abs=5e-4), row
            assert row["n_samples"] == int(LENGTHS.sum()) and math.isfinite(row["null"]) and row["note"] == ""
    shown = [{**row, "seconds": 0} for row in rows]
    other = [{**row, "seconds": 0} for row in tracked(tmp_path / "other", 7.0, 0)[1]]
    assert repr(shown) == repr(other)


def test_the_tracker_refuses_masks_and_drops_norms_of_real_positions(tmp_path: Path, undrawn: None) -> None:
    few = {"measures": [CKA(), MutualKNN(k=200)], "probe": tokens(), "folder": tmp_path, "mask": MASK}
    with pytest.raises(ValueError, match="mutual_knn_200 needs 201 samples.* has 92: raise"):
        DissimilarityTracker(["init"], **few)
    with pytest.raises(ValueError, match="sequence 5 with 1; lower them"):
        tracked(tmp_path, math.nan, 0, control={"drop_top_norm": 1})
