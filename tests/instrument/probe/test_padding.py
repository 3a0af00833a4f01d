"""Masks: every measure, null and error bar ignores padding, whatever its values."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dissimilarity import CCA, CKA, JSD, PWCCA, RBFCKA, SVCCA, MutualKNN, Procrustes, compare
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.plan import make_plan
from dissimilarity.functional import cka, mutual_knn, procrustes
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.probe.batches import cut_sequences
from dissimilarity.probe.outliers import Control
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.probe.rearrangement import circles, similar
from dissimilarity.probe.sampling import priorities
from dissimilarity.tables.curves import read_curves
from tests.helpers import oracles, sample_oracles
from tests.helpers.crossfit_oracles import SCORES, cross_fitted
from tests.helpers.found_measures import SETTINGS, make
from tests.helpers.oracles import Array

SEQUENCES, POSITIONS, VOCABULARY = 18, 9, 300
LENGTHS = torch.tensor([9, 2, 5, 4, 7, 1, 3, 9, 6, 5, 2, 8, 4, 4, 9, 3, 6, 5])
MASK = torch.arange(POSITIONS) < LENGTHS[:, None]


class Positionwise(nn.Module):
    """Looks up activations and logits by token and position, to the last bit; token 0 gives garbage."""

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
    """Draw tokens, 0 where padded."""
    drawn = torch.randint(1, VOCABULARY, (SEQUENCES, POSITIONS), generator=torch.Generator().manual_seed(0))
    return nn.functional.pad(torch.where(MASK, drawn, 0), (0, extra))


def longer(extra: int) -> Tensor:
    return nn.functional.pad(MASK, (0, extra))


def real_rows(net: Positionwise, site: str) -> Tensor:
    """Return the samples of real tokens, sequence by sequence, in float64, without the instrument."""
    rows = net.looked_up(net.outputs if site == "logits" else net.rows, tokens())
    return torch.cat([sequence[:length] for sequence, length in zip(rows, LENGTHS, strict=True)]).detach().double()


def sides(garbage: float = 0.0) -> tuple[Positionwise, Positionwise]:
    return Positionwise(6, 0, garbage), Positionwise(7, 1, garbage)


Sequences = NDArray[np.int64]
SEQUENCE = np.arange(len(LENGTHS)).repeat(LENGTHS)


def rbf_cka(x: Array, y: Array) -> float:
    k, l = (sample_oracles.kernel(z, 1.0).astype(float) for z in (x, y))  # noqa: E741
    return oracles.cka_of_kernels(k, l, SEQUENCE)


def distance_correlation_debiased(x: Array, y: Array) -> float:
    k, l = (sample_oracles.distances(z).astype(float) for z in (x, y))  # noqa: E741
    return oracles.cka_of_kernels(k, l, SEQUENCE)


def cka_of_sequences(x: Array, y: Array, sequence: Sequences = SEQUENCE) -> float:
    return oracles.cka_of_sequences(x, y, sequence)


ORACLES: dict[str, Callable[..., float]] = {
    "angular_cka": lambda x, y: math.acos(cka_of_sequences(x, y)),
    "angular_cka_biased": oracles.angular_cka_biased,
    "bures": oracles.bures,
    "cca": oracles.cca_mean,
    "cca_mean_square": oracles.cca_mean_square,
    "cca_r2": oracles.cca_r2,
    "cka": cka_of_sequences,
    "cka_sample": oracles.debiased_cka,
    "cka_biased": oracles.biased_cka,
    "cka_mean_of_ratios": cka_of_sequences,
    "cka_ratio_of_means": cka_of_sequences,
    "disagreement": sample_oracles.disagreement,
    "distance_correlation": sample_oracles.distance_correlation,
    "distance_correlation_debiased": distance_correlation_debiased,
    "gulp": oracles.gulp,
    "jaccard_knn": sample_oracles.jaccard_knn,
    "jaccard_knn_across": lambda x, y: sample_oracles.jaccard_knn(x, y, sequence=SEQUENCE),
    "jsd": sample_oracles.jsd,
    "kl": sample_oracles.kl,
    "linear_regression": oracles.linear_regression,
    "mutual_knn": sample_oracles.mutual_knn,
    "mutual_knn_across": lambda x, y: sample_oracles.mutual_knn(x, y, sequence=SEQUENCE),
    "permutation_procrustes": oracles.permutation_procrustes_angle,
    "permutation_procrustes_squared": oracles.permutation_procrustes_squared,
    "procrustes": oracles.procrustes_angle,
    "procrustes_squared": oracles.procrustes_squared,
    "pwcca": oracles.pwcca,
    "rbf_cka": rbf_cka,
    "rbf_cka_biased": sample_oracles.rbf_cka_biased,
    "rsa": sample_oracles.rsa,
    "rsa_pearson": lambda x, y: sample_oracles.rsa(x, y, compare="pearson"),
    "rsa_sqeuclidean": lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean"),
    "rsa_sqeuclidean_pearson": lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean", "pearson"),
    "svcca": oracles.svcca,
}
UNITS = cut_sequences(SEQUENCES, 5, SEQUENCES)
UNIT = np.concatenate([[unit] * int(LENGTHS[start:stop].sum()) for start, stop, unit in UNITS])
ORACLES |= {label: partial(cross_fitted, label, unit=UNIT) for label in SETTINGS if label in SCORES}
MEASURES = [make(setting) for setting in SETTINGS]


@lru_cache(None)
def expected() -> dict[str, tuple[str, float]]:
    """Return site and value of every measure over the real samples."""
    values = {}
    for setting, measure in zip(SETTINGS, MEASURES, strict=True):
        site = "logits" if setting in ("disagreement", "kl", "jsd") else "first"
        x, y = (real_rows(net, site).numpy() for net in sides())
        values[measure.label] = site, ORACLES[setting](x, y)
    return values


def through_compare(garbage: float, extra: int) -> list[dict[str, Any]]:
    a, b = sides(garbage)
    options: Any = {"n_units": 5, "mask": longer(extra)}
    return compare(a, b, tokens(extra), "first", MEASURES, **options).to_pylist()


def through_many(garbage: float, extra: int) -> list[dict[str, Any]]:
    a, b = sides(garbage)
    options: Any = {"n_units": 5, "mask": longer(extra)}
    return compare_many({"a": a, "b": lambda: b}, tokens(extra), "first", MEASURES, **options).to_pylist()


def through_saved(garbage: float, extra: int) -> list[dict[str, Any]]:
    saved = [
        {
            site: net.looked_up(table, tokens(extra)).detach()
            for site, table in (("first", net.rows), ("logits", net.outputs))
        }
        for net in sides(garbage)
    ]
    options: Any = {"n_units": 5, "mask": longer(extra)}
    return compare(saved[0], saved[1], None, "first", MEASURES, **options).to_pylist()


def check_null(row: dict[str, Any]) -> None:
    """Check that every measure has a null, except for cross-fitted ones: a circle mixes their halves.

    Of so few sequences, the null takes many tokens out of theirs, and measures that compare tokens aren't calibrated.
    """
    measure = next(measure for measure in MEASURES if measure.label == row["measure"])
    notes = {
        f"{measure.label} has no null for sequences of unequal length": measure.crossfit,
        "sequences have so few positions in common that the null takes": not (
            measure.crossfit or measure.by_sequence or isinstance(measure, OutputMeasure)
        ),
    }
    assert math.isnan(row["null"]) == measure.crossfit
    assert {note: note in row["note"] for note in notes} == notes
    assert math.isnan(row["calibrated"]) == any(notes.values()) and bool(row["note"]) == any(notes.values())


@pytest.mark.parametrize(("garbage", "extra"), [(0.0, 0), (math.nan, 3), (math.inf, 11)])
@pytest.mark.parametrize("through", [through_compare, through_many, through_saved])
def test_every_measure_is_its_value_over_the_real_samples(through: Any, garbage: float, extra: int) -> None:
    rows, values = through(garbage, extra), expected()
    assert len(rows) == len(values) == len(SETTINGS) >= 30
    for row in rows:
        site, value = values[row["measure"]]
        assert row["value"] == pytest.approx(value, abs=2e-5), row
        assert (row["site_a"], row["n_samples"]) == (site, int(LENGTHS.sum()))
        assert math.isfinite(row["stderr"]) or "has no standard error" in row["note"]
        check_null(row)
        if site == "first":
            eigenvalues = np.linalg.eigvalsh(np.cov(real_rows(sides()[0], "first").numpy().T))
            assert row["first_pc_a"] == pytest.approx(eigenvalues[-1] / eigenvalues.sum(), rel=1e-5)


def test_more_padding_and_its_content_change_no_bit() -> None:
    def numbers(rows: list[dict[str, Any]]) -> list[str]:
        return [repr(list(row.values())) for row in rows]

    first = numbers(through_compare(0.0, 0))
    assert numbers(through_compare(math.nan, 4)) == first
    assert [row.replace("'a', 'b', ", "") for row in numbers(through_many(math.inf, 0))] == first


def test_a_mask_of_ones_changes_no_bit() -> None:
    a, b = sides()
    plain = compare(a, b, tokens(), "first", MEASURES, n_units=5).to_pylist()
    masked = compare(a, b, tokens(), "first", MEASURES, n_units=5, mask=torch.ones_like(MASK)).to_pylist()
    assert repr(masked) == repr(plain)


def test_a_mask_that_leaves_sequences_of_one_length_is_the_shorter_probe_set() -> None:
    """The same units and the same null: a roll by one sequence."""
    (a, b), text = sides(), tokens().clamp(1)
    mask = torch.zeros_like(MASK)
    mask[:, :4] = True
    measures = [CKA(), Procrustes(), MutualKNN(k=5), JSD()]
    short = compare(a, b, text[:, :4], "first", measures, n_units=5).to_pylist()
    masked = compare(a, b, text, "first", measures, n_units=5, mask=mask).to_pylist()
    for row, expected_row in zip(masked, short, strict=True):
        for key, value in expected_row.items():
            close = pytest.approx(value, rel=1e-6, abs=1e-7, nan_ok=True) if isinstance(value, float | list) else value
            assert row[key] == close, key


def by_hand() -> tuple[list[Array], Any, list[tuple[int, int, int]], Any]:
    """Return the samples of both sides, the sequence of each, the chunks, and the unit of each sample."""
    slices = make_plan(ProbeSet(tokens(), MASK, n_units=5), [CKA()]).slices
    sequence = torch.arange(SEQUENCES).repeat_interleave(LENGTHS).numpy()
    unit = np.array([next(number for start, stop, number in slices if start <= at < stop) for at in sequence])
    return [real_rows(net, "first").numpy() for net in sides()], sequence, slices, unit


def circle_by_hand(sequence: Any) -> Any:
    """Return the sample that each one meets: at its position, of the next sequence in the circle that has it."""
    position = np.concatenate([np.arange(length) for length in LENGTHS.tolist()])
    circle = circles(LENGTHS, 1)[0].argsort().tolist()
    assert LENGTHS[circle].diff().lt(0).sum() <= 1  # but for where the circle closes, from short to long
    order = np.empty(len(sequence), dtype=np.int64)
    for at in range(int(LENGTHS.max())):
        members = [np.flatnonzero((sequence == s) & (position == at))[0] for s in circle if LENGTHS[s] > at]
        order[members] = np.roll(members, -1)
    return order


def test_the_null_is_the_value_of_compacted_samples_in_a_circle_by_hand() -> None:
    (x, y), sequence, _, _ = by_hand()
    assert int((LENGTHS.max() == LENGTHS).sum()) > 1
    rolled = circle_by_hand(sequence)
    assert not (sequence[rolled] == sequence).any() and sorted(rolled) == list(range(len(x)))
    nulls = {row["measure"]: row["null"] for row in through_compare(0.0, 0)}
    terms = [oracles.hsic_of_sequences(a @ a.T, b @ b.T, sequence) for a, b in ((x[rolled], y), (x, x), (y, y))]
    assert nulls["cka"] == pytest.approx(terms[0] / math.sqrt(terms[1] * terms[2]), abs=2e-5)
    for setting in ("cka_sample", "procrustes", "linear_regression", "gulp"):
        assert nulls[setting] == pytest.approx(ORACLES[setting](x[rolled], y), abs=2e-5), setting
    for setting in ("rsa", "mutual_knn", "distance_correlation", "rbf_cka"):
        assert nulls[setting] == pytest.approx(ORACLES[setting](x[rolled], y), abs=2e-5), setting


def test_standard_errors_are_those_of_unequal_units_by_hand() -> None:
    """From the value without each unit, or for Procrustes from the influence, by finite differences."""
    (x, y), sequence, _, unit = by_hand()
    n_units = 1 + int(unit.max())
    assert len(set(np.bincount(unit).tolist())) > 1

    def weighted(weight: Array) -> float:
        weights = weight[unit]
        a, b = (z - weights @ z / weights.sum() for z in (x, y))
        cross, self_a, self_b = (first.T @ (weights[:, None] * second) for first, second in ((a, b), (a, a), (b, b)))
        return float(np.arccos(np.linalg.norm(cross, "nuc") / np.sqrt(np.trace(self_a) * np.trace(self_b))))

    steps = 1e-5 * np.eye(n_units)
    influence = np.array([(weighted(1 + step) - weighted(1 - step)) / 2e-5 for step in steps])
    errors = {row["measure"]: row["stderr"] for row in through_compare(0.0, 0)}
    assert errors["procrustes"] == pytest.approx(influence.std() * n_units / math.sqrt(n_units - 1), rel=1e-4)
    for setting in ("cka", "cka_biased", "distance_correlation"):
        left_out = []
        for out in range(n_units):
            remains = unit != out
            known = [sequence[remains]] if setting == "cka" else []
            left_out.append(ORACLES[setting](x[remains], y[remains], *known))
        assert errors[setting] == pytest.approx(np.std(left_out) * math.sqrt(n_units - 1), rel=1e-5), setting


def test_the_error_bar_is_about_the_spread_over_probe_sets_of_unequal_sequences(unchecked: None) -> None:
    """Tokens of a sequence share a part, so samples are not independent, and lengths differ up to tenfold."""
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(40):
        lengths = torch.randint(2, 21, (64,), generator=generator)
        mask = torch.arange(20) < lengths[:, None]
        topic, noise = torch.randn(64, 1, 5, generator=generator), torch.randn(64, 20, 5, generator=generator)
        y = topic + 0.5 * noise + torch.randn(64, 20, 5, generator=generator)
        rows = compare(
            {"s": topic + noise}, {"s": y}, measures=[CKA(), RBFCKA(max_samples=300)], mask=mask, null=False
        ).to_pylist()
        estimates.append([[row["value"], row["stderr"]] for row in rows])
    value, stderr = np.array(estimates).transpose(2, 1, 0)
    ratio = stderr.mean(1) / value.std(1, ddof=1)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_pooling_runs_over_real_positions(pool: Any) -> None:
    """Real positions may be anywhere, as with padding on the left."""
    mask = MASK.flip(1)
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    take: Any = {"mean": lambda rows: rows.mean(0), "first": lambda rows: rows[0], "last": lambda rows: rows[-1]}[pool]
    pooled = [torch.stack([take(rows[real]) for rows, real in zip(z, mask, strict=True)]).double() for z in (x, y)]
    garbage = [z.masked_fill(~mask[..., None], math.nan) for z in (x, y)]
    rows = compare({"s": garbage[0]}, {"s": garbage[1]}, measures=[CKA(), MutualKNN(k=3)], pool=pool, mask=mask)
    for row, function in zip(rows.to_pylist(), (cka, lambda a, b: mutual_knn(a, b, k=3)), strict=True):
        assert row["value"] == pytest.approx(function(pooled[0], pooled[1]).item(), abs=1e-5)
        assert row["n_samples"] == SEQUENCES and math.isfinite(row["null"]) and math.isfinite(row["stderr"])


def test_pooled_sites_stand_beside_the_logits_of_real_positions() -> None:
    a, b = sides(math.nan)
    (row,) = compare(a, b, tokens(), "first", [JSD()], pool="last", mask=MASK).to_pylist()
    assert row["value"] == pytest.approx(expected()["jsd"][1], abs=1e-6) and row["n_samples"] == int(LENGTHS.sum())


def test_a_site_without_positions_has_one_real_sample_per_sequence() -> None:
    """Such as the logits of a classifier, beside sites that have positions."""
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    logits_x, logits_y = torch.randn(2, SEQUENCES, 3).unbind(0)
    rows = compare(
        {"s": x, "logits": logits_x}, {"s": y, "logits": logits_y}, measures=[CKA(), JSD()], mask=MASK
    ).to_pylist()
    assert {row["measure"]: row["n_samples"] for row in rows} == {"cka": int(LENGTHS.sum()), "jsd": SEQUENCES}
    assert rows[1]["value"] == pytest.approx(
        sample_oracles.jsd(logits_x.double().numpy(), logits_y.double().numpy()), abs=1e-6
    )
    assert math.isfinite(rows[1]["null"]) and math.isfinite(rows[1]["stderr"])


def test_a_control_counts_positions_of_the_sequence_and_norms_of_real_ones() -> None:
    mask = MASK[LENGTHS > 3]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, len(mask), POSITIONS, 4, generator=generator).unbind(0)
    size = torch.maximum(*(z.norm(dim=-1) / z.norm(dim=-1)[:, 1:][mask[:, 1:]].median() for z in (x, y)))
    remaining = []
    for sequence, real in enumerate(mask):
        places = [at for at in range(1, POSITIONS) if real[at]]
        largest = max(places, key=lambda at: float(size[sequence, at]))
        remaining += [(sequence, at) for at in places if at != largest]
    rows_x, rows_y = (torch.stack([z[place] for place in remaining]).double() for z in (x, y))
    value = cka(rows_x, rows_y, units=[sequence for sequence, _ in remaining]).item()
    garbage = [z.masked_fill(~mask[..., None], fill) for z, fill in ((x, math.nan), (y, 1e9))]
    for both in ((x, y), garbage):
        control = Control(skip_first=1, drop_top_norm=1)
        (row,) = compare({"s": both[0]}, {"s": both[1]}, measures=[CKA()], mask=mask, control=control).to_pylist()
        assert row["value"] == pytest.approx(value, abs=1e-6) and row["n_samples"] == len(remaining)
        options: Any = {"measures": [CKA()], "mask": mask, "control": control}
        (same,) = compare_many({"a": {"s": both[0]}, "b": {"s": both[1]}}, **options).to_pylist()
        assert same["value"] == row["value"]


def test_sample_measures_read_a_seeded_subset_of_the_real_samples() -> None:
    x, y = torch.randn(2, SEQUENCES, POSITIONS, 4).unbind(0)
    measures = [MutualKNN(k=3, max_samples=40), MutualKNN(k=4, max_samples=30, seed=7)]
    rows = compare({"s": x}, {"s": y}, measures=measures, mask=MASK).to_pylist()
    sequence, position = MASK.nonzero().unbind(1)
    cell = similar(LENGTHS)[sequence] * POSITIONS + position  # those of a group are drawn at the same positions
    held = priorities(0, int(cell.max()) + 1, 0)[cell].argsort(stable=True)[:40].sort().values
    subset = held[priorities(0, int(cell.max()) + 1, 7)[cell[held]].argsort(stable=True)[:30].sort().values]
    for row, index, k in zip(rows, (held, subset), (3, 4), strict=True):
        assert row["value"] == pytest.approx(mutual_knn(x[MASK][index], y[MASK][index], k=k).item(), abs=1e-6)
        assert row["n_samples"] == len(index)


@pytest.mark.parametrize("batch", [POSITIONS, 4 * POSITIONS])
def test_chunks_and_files_change_nothing(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    measures = [CKA(), Procrustes(), MutualKNN(max_samples=40, k=5), JSD(max_samples=50)]
    mask = MASK.repeat(4, 1)
    text = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    (a, b), options = sides(), {"n_units": 3, "mask": mask}
    whole = compare(a, b, text, "first", measures, **options).to_pylist()  # pyright: ignore
    monkeypatch.setattr("dissimilarity.probe.batches.TOKENS_PER_BATCH", batch)
    monkeypatch.setattr("dissimilarity.comparison.activations.IN_MEMORY", 0)
    assert len(make_plan(ProbeSet(text, mask, n_units=3), measures).slices) > 6
    parts = compare(a, b, text, "first", measures, **options).to_pylist()  # pyright: ignore
    through_blocks = compare_many({"a": a, "b": b}, text, "first", measures, **options).to_pylist()  # pyright: ignore
    for rows in (parts, through_blocks):
        for row, whole_row in zip(rows, whole, strict=True):
            assert row["value"] == pytest.approx(whole_row["value"], abs=1e-6)
            # Another first chunk gives another offset: of order 1 / n in the influences.
            assert row["stderr"] == pytest.approx(whole_row["stderr"], rel=0.15)
            assert row["n_samples"] == whole_row["n_samples"] and math.isfinite(row["null"])


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (MASK[:-1], {}, r"boolean mask of shape \(18, 9\), .* found torch.bool and \(17, 9\)"),
        (MASK[:, :-1], {}, r"shape \(18, 9\), .* \(18, 8\)"),
        (MASK.long(), {}, "boolean mask .* found torch.int64"),
        (MASK & (torch.arange(SEQUENCES) != 4)[:, None], {}, "none in 1 of them, such as sequence 4"),
        (MASK, {"positions": 3}, "a mask or a number of positions, found both"),
        (MASK, {"control": Control(skip_first=2)}, "no real position of 3 sequences, .* sequence 1 with 2; lower them"),
        (MASK, {"control": Control(drop_top_norm=3)}, "no real position of 5 sequences"),
        (torch.eye(SEQUENCES, POSITIONS, dtype=torch.bool)[:8], {}, r"found torch.bool and \(8, 9\)"),
    ],
)
def test_invalid_masks_are_rejected(unchecked: None, mask: Tensor, options: dict[str, Any], message: str) -> None:
    a, b = sides()
    with pytest.raises(ValueError, match=message):
        compare(a, b, tokens(), "first", [CKA()], mask=mask, **options)
    with pytest.raises(ValueError, match=message):
        compare_many({"a": a, "b": b}, tokens(), "first", [CKA()], mask=mask, **options)


def test_a_site_with_another_number_of_positions_is_rejected() -> None:
    other = {"s": torch.randn(SEQUENCES, POSITIONS, 3), "t": torch.randn(SEQUENCES, 4, 3)}
    with pytest.raises(ValueError, match="a mask of as many positions as the sites have, found 9 and 4"):
        compare(other, other, measures=[CKA()], mask=MASK)


class Training(pl.LightningModule):
    """Learns activations looked up by token and position; padding never reaches those of real tokens."""

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
        **{
            "sites": ["net.first", "second"],
            "every": 2,
            "heatmap_every": 2,
            "n_units": 5,
        }
        | options,
        mask=longer(extra),
    )
    loader = torch.utils.data.DataLoader(tokens(), batch_size=6)  # pyright: ignore[reportArgumentType]
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, callbacks=[tracker], **quiet)
    trainer.fit(module, loader)
    return module, read_curves(folder).to_pylist()


def test_the_tracker_reads_real_samples_alone(tmp_path: Path) -> None:
    module, rows = tracked(tmp_path, math.nan, 2)
    last = [row for row in rows if row["step"] == 2 and row["reference"] == "init"]
    assert {row["measure"] for row in last} == {measure.label for measure in MEASURES}
    before = Training()
    for row in last:
        if row["site_a"] == row["site_b"] != "second":
            site = "logits" if row["site_a"] == "logits" else "first"
            x, y = (real_rows(trained.net, site).numpy() for trained in (module, before))
            setting = dict(zip((measure.label for measure in MEASURES), SETTINGS, strict=True))[row["measure"]]
            if not setting.startswith("cka_"):
                assert row["value"] == pytest.approx(ORACLES[setting](x, y), abs=5e-4), row
            assert row["n_samples"] == int(LENGTHS.sum())
            check_null(row)
    untimed = [{**row, "seconds": 0} for row in rows]
    less_padding = [{**row, "seconds": 0} for row in tracked(tmp_path / "other", 7.0, 0)[1]]
    assert repr(untimed) == repr(less_padding)


def test_the_tracker_refuses_masks_and_drops_norms_of_real_positions(tmp_path: Path) -> None:
    options: Any = {"measures": [CKA(), MutualKNN(k=200)], "probe": tokens(), "folder": tmp_path, "mask": MASK}
    with pytest.raises(ValueError, match="mutual_knn_200 needs 202 samples.* has 92: pass more"):
        DissimilarityTracker(["init"], **options)
    with pytest.raises(ValueError, match="cka needs 4 sequences, and the probe set has 3: pass more, or"):
        DissimilarityTracker(["init"], **options | {"measures": [CKA()], "probe": tokens()[:3], "mask": None})
    with pytest.raises(ValueError, match="sequence 5 with 1; lower them"):
        tracked(tmp_path, math.nan, 0, control={"drop_top_norm": 1})


def test_without_a_null_a_sequence_may_have_most_of_the_samples() -> None:
    mask = torch.zeros(9, 60, dtype=torch.bool)
    mask[:, :4], mask[2] = True, True
    x, y = torch.randn(2, 9, 60, 3).unbind(0)
    (row,) = compare({"s": x}, {"s": y}, measures=[Procrustes()], mask=mask, null=False).to_pylist()
    assert row["value"] == pytest.approx(procrustes(x[mask].double(), y[mask].double()).item(), abs=1e-6)
    assert math.isfinite(row["stderr"]) and row["n_units"] == 9 and not row["note"]


def test_each_missing_error_bar_has_its_reason() -> None:
    x, y = torch.randn(2, 4, 20, 3).unbind(0)
    (row,) = compare({"s": x}, {"s": y}, measures=[CKA()]).to_pylist()
    assert math.isfinite(row["value"]) and math.isnan(row["stderr"])
    assert "has no standard error: without one unit 3 sequences are left, and it needs 4: pass more" in row["note"]
    x, y = torch.randn(8, 2, 40), torch.randn(8, 2, 5)
    for row in compare({"s": x}, {"s": y}, measures=[CCA(), SVCCA(), PWCCA()]).to_pylist():
        assert row["value"] == pytest.approx(1, abs=0.05) and math.isnan(row["stderr"])
        assert "in any 16 samples" in row["note"]
