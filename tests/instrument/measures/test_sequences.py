"""HSIC with whole sequences as units: against brute force, independent features, and the estimator of samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dissimilarity import CKA, RBFCKA, AngularCKA, DistanceCorrelation, MinibatchCKA, compare
from dissimilarity.functional import angular_cka, cka, distance_correlation, minibatch_cka, rbf_cka
from dissimilarity.measures.base.measure import Measure
from models.transformer import Transformer
from tests.helpers import oracles, sample_oracles
from tests.helpers.oracles import Array

EQUAL, UNEQUAL = [3] * 8, [4, 2, 3, 1, 4, 2, 3, 3, 2]
MEASURES: dict[str, Callable[..., Measure]] = {
    "cka": CKA,
    "angular_cka": AngularCKA,
    "rbf_cka": RBFCKA,
    "minibatch_cka": MinibatchCKA,
    "distance_correlation": lambda **options: DistanceCorrelation(True, **options),
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "cka": cka,
    "angular_cka": angular_cka,
    "rbf_cka": rbf_cka,
    "minibatch_cka": minibatch_cka,
    "distance_correlation": lambda x, y, **options: distance_correlation(x, y, True, **options),
}
KERNELS: dict[str, Callable[[Array], Array]] = {
    "rbf_cka": lambda x: sample_oracles.kernel(x, 1.0).astype(float),
    "distance_correlation": lambda x: sample_oracles.distances(x).astype(float),
}
each_kind = pytest.mark.parametrize("kind", MEASURES)
each_lengths = pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL], ids=["equal", "unequal"])


def drawn(lengths: list[int], p: int = 5, q: int = 4, seed: int = 0) -> tuple[Array, Array, NDArray[np.int64]]:
    """Draw two noisy views of a signal that samples of a sequence share, and the sequence of each sample."""
    rng, sequence = np.random.default_rng(seed), np.repeat(np.arange(len(lengths)), lengths)
    signal = rng.normal(size=(len(lengths), 3))[sequence] + rng.normal(size=(len(sequence), 3))
    x, y = (signal @ rng.normal(size=(3, d)) + rng.normal(size=(len(sequence), d)) + 2 for d in (p, q))
    return x, y, sequence


def expected(kind: str, x: Array, y: Array, sequence: NDArray[np.int64]) -> float:
    """Return the mean over all quadruples of samples of four sequences, from all kernel values."""
    kernel = KERNELS.get(kind, lambda z: (z - z.mean(0)) @ (z - z.mean(0)).T)
    k, l = kernel(x), kernel(y)  # noqa: E741
    cross, self_x, self_y = (oracles.hsic_of_quadruples(*pair, sequence) for pair in ((k, l), (k, k), (l, l)))
    cosine = cross / np.sqrt(self_x * self_y)
    return float(np.arccos(cosine) if kind == "angular_cka" else cosine)


def compared(x: Tensor, y: Tensor, measures: Any, **options: Any) -> list[dict[str, Any]]:
    return compare({"s": x}, {"s": y}, measures=measures, **options).to_pylist()


def padded(x: Array, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return (sequences, positions, d) with garbage after each sequence, and the mask of real positions."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows = torch.full((*mask.shape, x.shape[1]), 7.0, dtype=torch.float64)
    rows[mask] = torch.from_numpy(x)
    return rows, mask


@each_lengths
def test_both_oracles_agree(lengths: list[int]) -> None:
    x, y, sequence = drawn(lengths)
    one_by_one = oracles.hsic_of_quadruples(x @ x.T, y @ y.T, sequence)
    assert oracles.hsic_of_sequences(x @ x.T, y @ y.T, sequence) == pytest.approx(one_by_one, rel=1e-10)


@each_lengths
@each_kind
def test_a_function_is_the_mean_over_quadruples(kind: str, lengths: list[int]) -> None:
    """Samples come in any order, units under any names; minibatches are cut in the order of the samples."""
    x, y, sequence = drawn(lengths)
    order = np.arange(len(x)) if kind == "minibatch_cka" else np.random.default_rng(1).permutation(len(x))
    names = [f"text {number}" for number in sequence[order]]
    value = FUNCTIONS[kind](x[order], y[order], units=names).item()
    assert value == pytest.approx(expected(kind, x, y, sequence), rel=1e-10)


@pytest.mark.parametrize("width", [2, 5, 24], ids=["long", "short", "wide"])
@each_lengths
@each_kind
def test_compare_gives_the_mean_over_quadruples(kind: str, lengths: list[int], width: int) -> None:
    """Whatever the numbers of features beside those of samples, in units of several sequences."""
    x, y, sequence = drawn(lengths, width, width + 1)
    (first, mask), (second, _) = padded(x, lengths), padded(y, lengths)
    for n_units in (1, 3):
        (row,) = compared(first, second, MEASURES[kind](), mask=mask, n_units=n_units)
        assert row["value"] == pytest.approx(expected(kind, x, y, sequence), rel=1e-10)
        notes = ("has no calibrated value", "has no standard error: without one unit 3 sequences are left")
        assert not row["note"] or any(note in row["note"] for note in notes)


@each_lengths
@each_kind
def test_translation_of_a_side_changes_nothing(kind: str, lengths: list[int]) -> None:
    x, y, _ = drawn(lengths)
    (first, mask), (second, _) = padded(x, lengths), padded(y, lengths)
    rows = [compared(z, second - 3, MEASURES[kind](), mask=mask, n_units=3)[0] for z in (first, first + 50)]
    for key in ("value", "stderr", "null"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-9, nan_ok=True)


@each_kind
def test_sequences_of_one_sample_give_the_estimator_of_samples(kind: str) -> None:
    """To the last digit, with its error bar and null, through every path; the labels differ."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64)
    y = x[:, :4] + torch.randn(40, 4, generator=g)
    assert FUNCTIONS[kind](x, y, units=torch.arange(40)) == FUNCTIONS[kind](x, y)
    by_sequence, by_sample = MEASURES[kind](), MEASURES[kind](units="sample")
    assert (by_sequence.by_sequence, by_sample.by_sequence) == (True, False)
    assert by_sample.label == f"{by_sequence.label}_sample"
    masked = {"mask": torch.ones(40, 1, dtype=torch.bool)}
    for a, b, options in ((x, y, {}), (x[:, None], y[:, None], {}), (x[:, None], y[:, None], masked)):
        first, second = compared(a, b, [by_sequence, by_sample], **options)
        assert first.pop("influence") == pytest.approx(second.pop("influence"), nan_ok=True)
        changed = {"measure": "", "note": ""}
        assert {**first, **changed} == pytest.approx({**second, **changed}, nan_ok=True)
    assert by_sequence.value(x, y) == by_sample.value(x, y)


def independent(sequences: int, share: float, seed: int, d: int = 128, length: int = 16) -> tuple[Tensor, Tensor]:
    """Draw independent features whose samples have this correlation inside a sequence."""
    g = torch.Generator().manual_seed(seed)
    shared, own = torch.randn(2, sequences, 1, d, generator=g), torch.randn(2, sequences, length, d, generator=g)
    x, y = share**0.5 * shared + (1 - share) ** 0.5 * own
    return x, y


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_independent_features_score_zero(share: float) -> None:
    """The mean of ten draws is 0 within two of its standard errors, where samples as units see a similarity."""
    measures = [*(kind() for kind in MEASURES.values()), CKA(units="sample")]
    draws = (independent(32, share, seed) for seed in range(10))
    rows = [compared(x, y, measures, null=False) for x, y in draws]
    values = torch.tensor([[row["value"] for row in table] for table in rows], dtype=torch.float64)
    values[:, 1] -= torch.pi / 2
    mean, error = values.mean(0), values.std(0) / len(rows) ** 0.5
    assert bool((mean[:-1].abs() < 2 * error[:-1]).all()), (mean, error)
    assert mean[-1] > 5 * error[-1]


def test_untrained_nets_agree_on_few_and_many_sequences() -> None:
    """The estimator of samples falls with the number of sequences instead."""
    nets = []
    for seed in range(2):
        torch.manual_seed(seed)
        nets.append(Transformer(d_model=64, n_layers=2, d_head=16, n_ctx=32, d_vocab=50, activation=nn.GELU))
    g = torch.Generator().manual_seed(0)
    # Each text has words of its own.
    tokens = (torch.randint(50, (128, 1), generator=g) + torch.randint(6, (128, 32), generator=g)) % 50
    measures = [CKA(), CKA(units="sample")]
    tables = [
        compare(nets[0], nets[1], text, sites="blocks.1.resid_post", measures=measures, null=False).to_pylist()
        for text in (tokens[:32], tokens)
    ]
    (few, few_samples), (many, many_samples) = tables
    assert abs(few["value"] - many["value"]) < 2 * (few["stderr"] ** 2 + many["stderr"] ** 2) ** 0.5
    assert few_samples["value"] - few["value"] > 2 * (many_samples["value"] - many["value"]) > 0


@each_kind
def test_fewer_than_four_sequences_are_named(kind: str) -> None:
    x, y, sequence = drawn([6, 6, 6])
    with pytest.raises(ValueError, match=r"of 3, the measure needs|have 3, the measure needs at least 4; pass more"):
        FUNCTIONS[kind](x, y, units=sequence)
    first, second = (torch.from_numpy(z).unflatten(0, (3, 6)) for z in (x, y))
    rows = compared(first, second, MEASURES[kind]())
    assert np.isnan(rows[0]["value"]) and "3 sequences and needs 4: pass more" in rows[0]["note"]
    (row,) = compared(first, second, MEASURES[kind](units="sample"))
    assert np.isfinite(row["value"])


def test_minibatches_of_few_sequences_are_named() -> None:
    x, y = independent(8, 0.1, 0, 8, 16)
    (row,) = compared(x, y, MinibatchCKA(batch=32))
    assert np.isnan(row["value"]) and "a minibatch of 32 samples has samples of 2" in row["note"]


def test_a_quadruple_must_remain_for_an_error_bar() -> None:
    """Five sequences in two units: without one of them there are fewer than four."""
    x, y = independent(5, 0.1, 0, 8, 6)
    for row in compared(x, y, [kind() for kind in MEASURES.values()], n_units=2):
        assert np.isfinite(row["value"]) and np.isnan(row["stderr"])


@each_kind
def test_values_that_are_not_finite_in_one_unit_are_a_note(kind: str) -> None:
    x, y = independent(8, 0.1, 0, 8, 6)
    x[3, 2, 1] = torch.nan
    (row,) = compared(x, y, MEASURES[kind]())
    place = "in sequence 3 of 8: leave it out, or look for overflow in the model"
    assert np.isnan(row["value"]) and row["note"].startswith(f"1 value at s is NaN or infinite, {place}")


def test_units_that_do_not_fit_the_samples_are_named() -> None:
    x, y, _ = drawn(EQUAL)
    with pytest.raises(ValueError, match=r"expected units of shape \(24,\), .*found \(6,\)"):
        cka(x, y, units=np.arange(6))


def test_a_massive_token_costs_no_digits() -> None:
    """One of 1,000 times the usual norm on both sides, in float32, as in models with massive activations."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(24, 16, 48, generator=g)
    y = x @ torch.randn(48, 40, generator=g) / 7 + torch.randn(24, 16, 40, generator=g)
    for side in (x, y):
        side[:, 0, 3] += 1000 * torch.rand(24, generator=g)
        side[5, 3, 2] += 3000
    sequence = np.repeat(np.arange(24), 16)
    first, second = (z.flatten(0, 1).double().numpy() for z in (x, y))
    exact = oracles.cka_of_sequences(first, second, sequence)
    (row,) = compared(x, y, CKA())
    assert row["value"] == pytest.approx(exact, abs=1e-6)
