"""Sample and output measures against their definitions: hard shapes, hard numbers, short precisions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from dissimilarity import RBFCKA, RSA, DistanceCorrelation, JaccardKNN, MinibatchCKA, MutualKNN
from dissimilarity.functional import (
    cka,
    disagreement,
    distance_correlation,
    jaccard_knn,
    jsd,
    kl,
    minibatch_cka,
    mutual_knn,
    rbf_cka,
    rsa,
)
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.numerics.ranks import below, exact_ranks, quick_ranks
from tests.helpers import sample_oracles
from tests.helpers.oracles import Array
from tests.instrument.measures.test_oracles import CASES, related

Function = Callable[[Tensor, Tensor], Tensor]
Oracle = Callable[[Array, Array], float]

MEASURES: dict[str, tuple[Function, Oracle]] = {
    "rsa": (rsa, sample_oracles.rsa),
    "rsa_pearson": (
        lambda x, y: rsa(x, y, compare="pearson"),
        lambda x, y: sample_oracles.rsa(x, y, compare="pearson"),
    ),
    "rsa_sqeuclidean": (
        lambda x, y: rsa(x, y, "sqeuclidean"),
        lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean"),
    ),
    "rsa_sqeuclidean_pearson": (
        lambda x, y: rsa(x, y, "sqeuclidean", "pearson"),
        lambda x, y: sample_oracles.rsa(x, y, "sqeuclidean", "pearson"),
    ),
    "distance_correlation": (distance_correlation, sample_oracles.distance_correlation),
    "distance_correlation_debiased": (
        lambda x, y: distance_correlation(x, y, debiased=True),
        sample_oracles.distance_correlation_debiased,
    ),
    "rbf_cka": (rbf_cka, sample_oracles.rbf_cka),
    "rbf_cka_biased": (lambda x, y: rbf_cka(x, y, debiased=False), sample_oracles.rbf_cka_biased),
    "rbf_cka_narrow": (
        lambda x, y: rbf_cka(x, y, bandwidth=0.4),
        lambda x, y: sample_oracles.rbf_cka(x, y, bandwidth=0.4),
    ),
    "mutual_knn": (mutual_knn, sample_oracles.mutual_knn),
    "jaccard_knn": (jaccard_knn, sample_oracles.jaccard_knn),
    "cka_ratio_of_means": (
        lambda x, y: minibatch_cka(x, y, "ratio_of_means", 16),
        lambda x, y: sample_oracles.cka_ratio_of_means(x, y, 16),
    ),
    "cka_mean_of_ratios": (
        lambda x, y: minibatch_cka(x, y, "mean_of_ratios", 16),
        lambda x, y: sample_oracles.cka_mean_of_ratios(x, y, 16),
    ),
}
OUTPUTS: dict[str, tuple[Function, Oracle]] = {
    "disagreement": (disagreement, sample_oracles.disagreement),
    "kl": (kl, sample_oracles.kl),
    "jsd": (jsd, sample_oracles.jsd),
}


def duplicated_rows() -> tuple[Array, Array]:
    """Return each row of x three times, and y in runs of other lengths: zero distances, and ties of nine."""
    x, y = related(120, 24, 17, seed=3)
    return x[np.arange(120) // 3], y[np.sort(np.random.default_rng(4).integers(0, 60, 120))]


def small_numbers() -> tuple[Array, Array]:
    """Return whole numbers, most of whose distances are tied."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 3, (90, 6)) + np.arange(6.0), rng.integers(0, 2, (90, 9)) + np.arange(9.0)


ALL = (*CASES, duplicated_rows, small_numbers)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("case", ALL)
def test_float64_rows_give_the_definition(case: Callable[[], tuple[Array, Array]], measure: str) -> None:
    x, y = case()
    function, oracle = MEASURES[measure]
    assert function(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(oracle(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("case", ALL)
def test_float32_rows_cost_a_millionth(case: Callable[[], tuple[Array, Array]], measure: str) -> None:
    """Against the definition in float64 on the same float32 rows."""
    x, y = (torch.tensor(z).float() for z in case())
    function, oracle = MEASURES[measure]
    assert function(x, y).item() == pytest.approx(oracle(x.double().numpy(), y.double().numpy()), abs=1e-6)


@pytest.mark.parametrize("measure", OUTPUTS)
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_outputs_give_the_definition(size: float, measure: str) -> None:
    x, y = (size * z for z in related(300, 20, 20))
    function, oracle = OUTPUTS[measure]
    assert function(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(oracle(x, y), abs=1e-10)
    a, b = torch.tensor(x).float(), torch.tensor(y).float()
    assert function(a, b).item() == pytest.approx(oracle(a.double().numpy(), b.double().numpy()), abs=1e-6)
    shifted = torch.tensor(x + 100 * np.arange(300.0)[:, None])
    assert function(shifted, torch.tensor(y)).item() == pytest.approx(oracle(x, y), abs=1e-10)


def many(n: int = 1100, seed: int = 6) -> tuple[Array, Array]:
    """Return more rows than are multiplied in float64."""
    x, y = related(n, 24, 17, seed)
    return x, y


def many_far_away() -> tuple[Array, Array]:
    x, y = many()
    return x + 1e4 * x.std() * np.random.default_rng(2).choice([-1, 1], size=24), y


def many_with_an_outlier() -> tuple[Array, Array]:
    x, y = many()
    x[5] *= 1e4 / np.linalg.norm(x[5])
    y[5] *= 1e4 / np.linalg.norm(y[5])
    return x, y


def many_around_few() -> tuple[Array, Array]:
    """Return rows near ten points, so that most distances of one side are as small as rounding in float32."""
    x, y = many()
    return 1e3 * x[np.arange(len(x)) % 10] + 1e-2 * x, y


def many_equal() -> tuple[Array, Array]:
    x, y = many()
    return x[np.arange(len(x)) // 3], y[np.arange(len(y)) % 20]


def many_small_numbers() -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 3, (1100, 6)) + np.arange(6.0), rng.integers(0, 2, (1100, 12)) + np.arange(12.0)


def many_nearly_equidistant() -> tuple[Array, Array]:
    x, y = many()
    return np.concatenate([1e-3 * x, np.eye(len(x))], 1), y


@pytest.mark.parametrize("measure", [name for name in MEASURES if "ratio" not in name and "narrow" not in name])
@pytest.mark.parametrize(
    "case",
    [
        many,
        many_far_away,
        many_with_an_outlier,
        many_around_few,
        many_equal,
        many_small_numbers,
        many_nearly_equidistant,
    ],
)
def test_products_in_float32_cost_less_than_a_millionth(case: Callable[[], tuple[Array, Array]], measure: str) -> None:
    """Against float64 products of the same rows, which the tests above hold to the definitions."""
    x, y = (torch.tensor(z).float() for z in case())
    function, _ = MEASURES[measure]
    assert function(x, y).item() == pytest.approx(function(x.double(), y.double()).item(), abs=1e-6)


def test_ranks_by_counting_are_ranks_by_sorting() -> None:
    g = torch.Generator().manual_seed(7)
    values = (torch.rand(20_000, generator=g) + 0.1) ** 4
    values[100:103] = 0
    counted = quick_ranks(values)
    assert counted is not None
    expected = torch.tensor(rankdata(values.numpy())) - (len(values) + 1) / 2
    # The order of numbers that agree in 17 bits is lost: a few of 20,000 ranks.
    assert (counted.centered - expected).abs().max() < 5
    assert counted.centered[100:103].tolist() == [expected[100].item()] * 3
    assert exact_ranks(values).centered.tolist() == expected.tolist()
    assert quick_ranks(torch.ones(100)) is None
    assert quick_ranks(torch.logspace(-30, 30, 20_000)) is None


@pytest.mark.parametrize(
    "measure",
    [
        *(RSA(rdm, compare) for rdm in ("correlation", "sqeuclidean") for compare in ("spearman", "pearson")),
        *(DistanceCorrelation(), DistanceCorrelation(debiased=True), RBFCKA(), MutualKNN(k=4), JaccardKNN(k=4)),
    ],
    ids=lambda measure: measure.label,
)
@pytest.mark.parametrize("n", [3, 40, 300])
def test_a_rearranged_side_is_that_of_the_rearranged_samples(measure: SampleMeasure, n: int) -> None:
    """With its error bar; 300 samples take several blocks of pairs, and some are equal.

    Not for nearest neighbors, where the order decides which of two at one distance is a neighbor.
    """
    n = max(n, measure.minimum_samples, 2 * getattr(measure, "k", 0))
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for _ in "xy")
    if not hasattr(measure, "k"):
        x[n // 2 :: 7] = x[0]
    order, units = torch.randperm(n, generator=generator), torch.arange(n) // max(1, n // 10)
    sides = measure.rearrange(measure.prepare(x), order), measure.prepare(y)
    value, influence = measure.estimate(*sides, units)
    expected, expected_influence = measure.estimate(measure.prepare(x[order]), sides[1], units)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(influence, expected_influence, equal_nan=True)
    partners = [sides[1], measure.prepare(x)]
    orders = torch.stack([torch.arange(n), order])
    values = measure.rearranged_values(measure.prepare(x), partners, orders)
    assert values.shape == (2, 2)
    torch.testing.assert_close(values[1, 0], expected)
    torch.testing.assert_close(values[0, 1], measure.between(measure.prepare(x), partners[1]))


def test_a_number_with_more_weight_raises_the_ranks_above_it() -> None:
    """Against ranks that are taken again with one number twice."""
    g = torch.Generator().manual_seed(8)
    values = torch.randint(0, 12, (40,), generator=g).double()
    numbers = torch.randn(40, generator=g, dtype=torch.float64)
    numbers -= numbers.mean()
    rise = below(exact_ranks(values), numbers)
    plain = torch.tensor(rankdata(values.numpy()))
    for i in range(40):
        again = torch.tensor(rankdata(torch.cat([values, values[i : i + 1]]).numpy()))[:40]
        assert rise[i].item() == pytest.approx(((again - plain) @ numbers).item(), abs=1e-10)


@pytest.mark.parametrize("reduction", ["ratio_of_means", "mean_of_ratios"])
def test_minibatches_follow_the_order_of_the_stream_for_any_updates(reduction: Any) -> None:
    x, y = (torch.tensor(z) for z in related(203, 9, 6))
    oracle = getattr(sample_oracles, f"cka_{reduction}")(x.numpy(), y.numpy(), 16)
    assert minibatch_cka(x, y, reduction, 16).item() == pytest.approx(oracle, abs=1e-12)
    for cuts in ([], [1], [16], [5, 40, 41, 150], list(range(1, 203))):
        measure = MinibatchCKA(reduction, 16)
        for a, b in zip(x.tensor_split(cuts), y.tensor_split(cuts), strict=True):
            measure.update(a, b)
        assert measure.compute().item() == pytest.approx(oracle, abs=1e-12)
    # The last 11 rows make no minibatch, and are left out.
    assert minibatch_cka(x[:192], y[:192], reduction, 16).item() == pytest.approx(oracle, abs=1e-12)
    # A stream of fewer rows than a minibatch is one.
    assert minibatch_cka(x, y, reduction, 1000).item() == pytest.approx(cka(x, y).item(), abs=1e-12)


def test_the_ratio_of_means_tends_to_the_value_over_all_samples_and_the_mean_of_ratios_does_not() -> None:
    rng = np.random.default_rng(9)
    scale = np.repeat(rng.lognormal(size=200), 16)[:, None]
    x, y = (torch.tensor(scale * z) for z in related(3200, 9, 6, seed=9))
    assert minibatch_cka(x, y, "ratio_of_means", 16) != minibatch_cka(x, y, "mean_of_ratios", 16)
    alike = related(3200, 9, 6, seed=10)
    x, y = (torch.tensor(z) for z in alike)
    whole = cka(x, y).item()
    ratio, mean = (abs(minibatch_cka(x, y, kind, 8).item() - whole) for kind in ("ratio_of_means", "mean_of_ratios"))
    assert ratio < 0.01 < mean


@pytest.mark.parametrize("reduction", ["ratio_of_means", "mean_of_ratios"])
@pytest.mark.parametrize("unit", [1e-60, 1e-40, 1e60])
def test_opposite_scales_of_minibatches_cancel(reduction: Any, unit: float) -> None:
    x, y = (torch.tensor(z) for z in related(64, 9, 6))
    expected = MinibatchCKA(reduction, 16)(x, y)
    assert MinibatchCKA(reduction, 16)(x * unit, y / unit).item() == pytest.approx(expected.item(), rel=1e-12)
    with pytest.raises(ValueError, match="values are too large or too small"):
        MinibatchCKA(reduction, 64)(x * 1e76, y)


@pytest.mark.parametrize("reduction", ["ratio_of_means", "mean_of_ratios"])
def test_a_minibatch_without_a_self_term_is_named(reduction: Any) -> None:
    x, y = (torch.tensor(z) for z in related(64, 9, 6))
    x[16:32] = x[16]
    if reduction == "mean_of_ratios":
        with pytest.raises(ValueError, match="self term of a minibatch is not positive"):
            minibatch_cka(x, y, reduction, 16)
        measure = MinibatchCKA(reduction, 16)
        with pytest.raises(ValueError, match="self term of x in 1 of 4 minibatches is not positive"):
            measure.between(measure.prepare(x), measure.prepare(y))
    else:
        assert minibatch_cka(x, y, reduction, 16).isfinite()
    with pytest.raises(ValueError, match="self term of x is not positive|self term of a minibatch is not positive"):
        minibatch_cka(torch.eye(16, dtype=torch.float64).repeat(4, 1), y, reduction, 16)
    with pytest.raises(ValueError, match="expected batch >= 4, samples of a minibatch, found 3"):
        MinibatchCKA(batch=3)


def test_rows_and_sides_that_a_measure_cannot_use_are_named() -> None:
    x, y = (torch.tensor(z) for z in related(40, 9, 6))
    flat = x.clone()
    flat[[3, 7]] = 2.5
    with pytest.raises(ValueError, match="2 samples have no variance over their features"):
        rsa(flat, y)
    assert rsa(flat, y, "sqeuclidean").isfinite()
    equidistant = torch.eye(40, dtype=torch.float64)
    for refused in (rsa, lambda a, b: rsa(a, b, "sqeuclidean", "pearson")):
        with pytest.raises(ValueError, match="equally dissimilar"):
            refused(3 * equidistant + 1, y)
    for refused in (lambda a, b: distance_correlation(a, b, debiased=True), rbf_cka):
        with pytest.raises(ValueError, match="unbiased self term of x is zero"):
            refused(equidistant, y)
    assert distance_correlation(equidistant, y).isfinite()
    repeated = x.clone()
    repeated[:32] = x[0]
    with pytest.raises(ValueError, match="median distance is zero"):
        rbf_cka(repeated, y)
    repeated[5] = 0
    with pytest.raises(ValueError, match="1 samples are zero"):
        jaccard_knn(repeated, y)


def test_independent_samples_have_a_distance_correlation_of_zero() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    assert distance_correlation(x, y).item() == pytest.approx(0.0, abs=1e-7)


def test_the_bias_of_independent_samples_is_gone_from_the_debiased_forms() -> None:
    rng = np.random.default_rng(4)
    draws = [[torch.tensor(rng.normal(size=(64, 100))) for _ in range(2)] for _ in range(40)]
    for function in (distance_correlation, rbf_cka):
        debiased = torch.stack([function(x, y, debiased=True) for x, y in draws])
        biased = torch.stack([function(x, y, debiased=False) for x, y in draws])
        assert abs(debiased.mean().item()) < 4 * debiased.std().item() / 40**0.5 < 0.03
        assert biased.mean().item() > 0.5


@pytest.mark.parametrize("measure", [RSA(), MutualKNN(k=3), JaccardKNN(k=3)], ids=lambda measure: measure.label)
def test_samples_of_one_direction_are_equally_near_whatever_their_lengths(measure: SampleMeasure) -> None:
    """Rounding puts them at distances that are 0 on paper, and decides neither ranks nor neighbors."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randint(-7, 8, (6, 5), generator=generator, dtype=torch.float64)
    x = directions[torch.randint(6, (40,), generator=generator)]
    y = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    lengths = 0.1 + torch.rand(40, 1, generator=generator, dtype=torch.float64)
    values = [measure.between(measure.prepare(samples), measure.prepare(y)) for samples in (x, lengths * x)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-12)
