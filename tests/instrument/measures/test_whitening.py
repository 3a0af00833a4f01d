"""Measures that whiten: ranks, gradients where dimensions are missing, batches of pairs; and matching of neurons."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dissimilarity.functional import angular_cka, cca, permutation_procrustes, product_distance, pwcca, svcca
from dissimilarity.inference.jackknife import estimate, stderr_of_influence
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.gulp import GULP
from dissimilarity.measures.numerics.whitening import whitening
from dissimilarity.measures.svcca import SVCCA
from dissimilarity.moments.halves import HALF
from dissimilarity.moments.pair import Moments, add, centered, pair_moments
from tests.helpers import oracles
from tests.helpers.found_measures import SETTINGS, function_of, generator, make, related

WHITENED = [setting for setting in SETTINGS if isinstance(make(setting), WhitenedMeasure)]
each_whitened = pytest.mark.parametrize("setting", WHITENED)
HALVES = [key + HALF for key in ("n", "x", "y", "xx", "yy", "xy", "a", "b", "eps_x", "eps_y")]


def grouped(x: Tensor, y: Tensor, groups: int = 8) -> tuple[Moments, Moments]:
    """Return total sums, also over every other group, and those of each group."""
    parts = [pair_moments(a, b, x.mean(0), y.mean(0)) for a, b in zip(x.chunk(groups), y.chunk(groups), strict=True)]
    totals: Moments = {}
    for part in parts:
        totals = add(totals, part)
    for part in parts[::2]:
        totals |= {key: totals.get(key, 0) + part[key.removesuffix(HALF)] for key in HALVES}
    return totals, {key: torch.stack([part[key] for part in parts]) for key in parts[0]}


def redundant(x: Tensor) -> Tensor:
    """Return the same span with a copy, a sum and a dead neuron added."""
    return torch.cat([x[:, :2], x[:, :1], x[:, 2:], x.sum(1, keepdim=True), torch.full_like(x[:, :1], 0.1)], 1)


def widened(x: Tensor, width: int) -> Tensor:
    """Return the same span in more columns."""
    return x @ torch.randn(x.shape[1], width, generator=generator(width), dtype=x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "p"), [(100, 30), (1000, 128), (20000, 64)])
def test_ranks_are_found_in_the_rounding_of_the_sums(n: int, p: int, dtype: torch.dtype) -> None:
    g = generator(p)
    for rank in (1, 3, p // 4, p // 2, p):
        x = torch.randn(n, rank, generator=g, dtype=torch.float64) + 3
        if rank < p:
            x = x @ torch.randn(rank, p, generator=g, dtype=torch.float64)
        m = pair_moments((x * torch.logspace(0, 3, p)).to(dtype), x[:, :1].to(dtype))
        assert whitening(centered(m)[0], m["xx"], m["eps_x"] / m["n"]).rank.item() == rank


@pytest.mark.parametrize("setting", ["cca", "cca_mean_square", "cca_r2", "linear_regression"])
def test_dimensions_that_add_nothing_change_neither_value_nor_error_bar(setting: str) -> None:
    x, y = related(160)
    formula = make(setting).from_moments
    value, influence = estimate(formula, *grouped(x, y))
    for a, b in ((redundant(x), y), (x, redundant(y)), (redundant(x), redundant(y))):
        if setting == "linear_regression" and b is not y:
            continue  # whose columns of y are weighted by variance
        again = estimate(formula, *grouped(a, b))
        assert again[0].item() == pytest.approx(value.item(), abs=1e-10)
        assert stderr_of_influence(again[1]).item() == pytest.approx(stderr_of_influence(influence).item(), rel=1e-6)


@each_whitened
def test_error_bars_are_finite_where_dimensions_are_missing(setting: str) -> None:
    pairs = [related(40, 50, 60), related(40, 50, 5), related(60, 60, 60)]
    if make(setting).crossfit:  # whose halves determine a map: fewer directions than samples in wide sides
        pairs = [(widened(x, 50), widened(y, 60)) for x, y in (related(40, 9, 8), related(40, 7, 5))]
    for x, y in (*pairs, tuple(map(redundant, related(80)))):
        for dtype in (torch.float32, torch.float64):
            value, influence = estimate(make(setting).from_moments, *grouped(x.to(dtype), y.to(dtype)))
            assert torch.isfinite(value) and torch.isfinite(stderr_of_influence(influence))


@each_whitened
def test_pairs_of_any_ranks_are_evaluated_together(setting: str) -> None:
    """Some whole, some with dimensions missing: the same values, errors and derivatives as one by one."""
    formula = make(setting).from_moments
    pairs = [related(96, 9, 8, seed=1), related(96, 6, 5, seed=2), related(96, 9, 8, seed=3), related(96, 9, 2, seed=4)]
    pairs[1] = (redundant(pairs[1][0]), redundant(pairs[1][1]))
    pairs[3] = (pairs[3][0], torch.cat([pairs[3][1]] * 4, 1))
    pairs.append((pairs[0][0], pairs[0][0][:, :8] * 2))
    alone = [grouped(x, y) for x, y in pairs]
    totals = {key: torch.stack([one[0][key] for one in alone]) for key in alone[0][0]}
    groups = {key: torch.stack([one[1][key] for one in alone], 1) for key in alone[0][1]}
    values, influences = estimate(formula, totals, groups)
    for (total, group), value, influence in zip(alone, values, influences.unbind(1), strict=True):
        expected = estimate(formula, total, group)
        assert value.item() == pytest.approx(expected[0].item(), abs=1e-12)
        assert influence.tolist() == pytest.approx(expected[1].tolist(), rel=1e-6, abs=1e-9)
    nested = formula({key: sums.unflatten(0, (1, len(pairs))) for key, sums in totals.items()})
    assert torch.allclose(nested[0], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_wide_equal_sides_in_any_precision_are_identical(setting: str) -> None:
    """From 256 dimensions on x'x and x'y are multiplied in blocks of different shapes, and round differently."""
    measure, function = make(setting), function_of(setting)
    if setting not in WHITENED and not setting.startswith(("angular_cka", "bures", "permutation")):
        pytest.skip("holds narrow sides to it only")
    x = related(1400 if measure.crossfit else 700, 300, 5)[0]  # a half determines a map of 300 directions to 300
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert function(x.to(dtype), x.to(dtype)).item() == measure.identical
        assert function(x.to(dtype), -x.to(dtype)).item() == pytest.approx(function(x, -x).item(), abs=2e-3)


@each_whitened
def test_about_as_many_samples_as_dimensions_in_float32(setting: str) -> None:
    """Directions of almost no variance, which float32 products would lose.

    A half that has about as many samples as one side has dimensions determines a map to a narrow side only.
    """
    function = function_of(setting)
    cases = [(n, 120, 119) for n in (119, 120, 121)]
    if make(setting).crossfit:  # halves of 123 and 125 samples, on either side
        cases = [(n, *widths) for n in (246, 250) for widths in ((120, 2), (2, 120))]
    for n, p, q in cases:
        x, y = (z.float() for z in related(n, p, q))
        expected = function(x.double(), y.double()).item()
        assert function(x, y).item() == pytest.approx(expected, abs=1e-6 * max(1.0, expected))


def test_each_rho_is_one_where_the_samples_are_no_more_than_the_dimensions() -> None:
    for dtype in (torch.float32, torch.float64):
        for n, p, q in ((20, 64, 48), (40, 40, 41), (500, 512, 512)):
            x, y = (z.to(dtype) for z in related(n, p, q))
            assert cca(x, y).item() == pytest.approx(1, abs=1e-9)
            assert pwcca(x, y).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("n", "p", "q"), [(400, 10, 10), (400, 10, 7), (400, 7, 10), (30, 20, 20)])
def test_tied_variates_are_those_along_which_x_varies_most(n: int, p: int, q: int) -> None:
    """Sides that share features, so that correlations of 1 are tied, or have too few samples not to."""
    g = generator(0)
    x = torch.randn(n, p, generator=g, dtype=torch.float64) @ torch.diag(torch.linspace(1, 0.1, p)).double()
    y = torch.cat([x[:, :4], torch.randn(n, q - 4, generator=g, dtype=torch.float64)], 1)
    own, other = oracles.basis(x.numpy()), oracles.basis(y.numpy())
    left, rho, _ = np.linalg.svd(own.T @ other)
    tied = own @ left[:, : (rho > 1 - 1e-9).sum()]
    first = tied @ np.linalg.svd(tied.T @ oracles.centered(x.numpy()))[0]
    rest = own @ left[:, first.shape[1] : len(rho)]
    weights = np.abs(np.concatenate([first, rest], 1).T @ oracles.centered(x.numpy())).sum(1)
    expected = float(np.average(rho, weights=weights))

    for _ in range(3):
        turn = torch.linalg.qr(torch.randn(q, q, generator=g, dtype=torch.float64)).Q
        order = torch.randperm(n, generator=g)
        assert pwcca(x[order], (y @ turn)[order]).item() == pytest.approx(expected, abs=1e-7)
        assert pwcca(x.float(), (y @ turn).float()).item() == pytest.approx(expected, abs=1e-5)


def test_tied_directions_of_a_half_are_those_along_which_x_varies_most() -> None:
    g = generator(0)
    x = torch.randn(400, 10, generator=g, dtype=torch.float64) @ torch.diag(torch.linspace(1, 0.1, 10)).double()
    y = torch.cat([x[:, :4], torch.randn(400, 6, generator=g, dtype=torch.float64)], 1)
    turns = [torch.linalg.qr(torch.randn(10, 10, generator=g, dtype=torch.float64)).Q for _ in range(3)]
    values = [pwcca(x, y @ turn, crossfit=True).item() for turn in turns]
    assert values == pytest.approx([values[0]] * 3, abs=1e-7)


def test_svcca_counts_components() -> None:
    """Three shares of variance need one, two and three of the directions with variances 90, 9.5 and 0.5%."""
    g = generator(0)
    axes = torch.linalg.qr(torch.randn(100, 9, generator=g, dtype=torch.float64) - 0.0).Q
    axes = torch.linalg.qr(axes - axes.mean(0)).Q
    x = axes[:, :3] * torch.tensor([90, 9.5, 0.5], dtype=torch.float64).sqrt()
    y = axes[:, [0, 3, 2]] * torch.tensor([90, 9.5, 0.5], dtype=torch.float64).sqrt()
    values = [svcca(x, y, share).item() for share in (0.8, 0.99, 0.999)]
    assert values == pytest.approx([1, 1 / 2, 2 / 3], abs=1e-10)


@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_sense_are_rejected() -> None:
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: SVCCA(1.0), "variance above 0 and below 1, a number, found 1.0"),
        (lambda: SVCCA(0.0), "variance above 0"),
        (lambda: GULP(0.0), "ridge above 0, a number, found 0.0"),
        (
            lambda: cca(*related(), reduction="max"),  # pyright: ignore
            "mean, mean_square or r2, found 'max'",
        ),
        (
            lambda: permutation_procrustes(*related(), kind="chordal"),  # pyright: ignore
            "angular or squared, found 'chordal'",
        ),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    assert SVCCA(0.9).label == "svcca_0.9" and GULP(0.5).label == "gulp_0.5"


def test_the_matching_is_optimal() -> None:
    for p, q in ((4, 4), (3, 5), (5, 2)):
        x, y = related(50, p, q, seed=p)
        a, b = (z - z.mean(0) for z in (x.numpy(), y.numpy()))
        narrow, wide = (a, b) if p <= q else (b, a)
        sums = [
            np.trace(narrow.T @ wide[:, list(order)])
            for order in itertools.permutations(range(wide.shape[1]), narrow.shape[1])
        ]
        cosine = max(sums) / (np.linalg.norm(a) * np.linalg.norm(b))
        assert permutation_procrustes(x, y).item() == pytest.approx(np.arccos(cosine), abs=1e-10)
        assert permutation_procrustes(x, y, "squared").item() == pytest.approx(2 - 2 * cosine, abs=1e-10)


def test_opposite_neurons_are_at_the_largest_angle() -> None:
    x = related(50, 1)[0]
    assert permutation_procrustes(x, -x).item() == pytest.approx(torch.pi, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
def test_product_distance_sums_over_layers(debiased: bool) -> None:
    layers = [related(60, p, q, seed=p) for p, q in ((4, 6), (7, 5), (9, 9))]
    xs, ys = [x for x, _ in layers], [y for _, y in layers]
    oracle = oracles.angular_cka if debiased else oracles.angular_cka_biased
    expected = np.sqrt(sum(oracle(x.numpy(), y.numpy()) ** 2 for x, y in layers))
    assert product_distance(xs, ys, debiased).item() == pytest.approx(expected, abs=1e-10)
    assert product_distance(xs, xs, debiased).item() == 0.0
    assert product_distance(xs[:1], ys[:1], debiased) == angular_cka(xs[0], ys[0], debiased)
    with pytest.raises(ValueError, match="as many layers.*3 and 2"):
        product_distance(xs, ys[:2], debiased)
    with pytest.raises(ValueError, match="at least one"):
        product_distance([], [], debiased)


def test_angles_near_zero_keep_the_digits_of_the_cosine() -> None:
    x = related(200)[0]
    noise = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        a, b = (z - z.mean(0) for z in (x.numpy(), (x + size * noise).numpy()))
        kernels = [z @ z.T / np.linalg.norm(z @ z.T) for z in (a, b)]
        expected = 2 * np.arcsin(np.linalg.norm(kernels[0] - kernels[1]) / 2)
        assert angular_cka(x, x + size * noise, debiased=False).item() == pytest.approx(expected, abs=2e-6)
