"""Error bars: the infinitesimal jackknife against the recomputed one, against closed forms, and against simulation."""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.functional import cka
from dissimilarity.inference.jackknife import (
    estimate,
    estimate_weighted,
    half_width,
    influence_of_left_out,
    influence_of_pairs_left_out,
    stderr_of_influence,
    unit_pairs,
)
from dissimilarity.measures.base.moment_measure import MomentMeasure, WhitenedMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure, weighted_mean
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.halves import HALF
from dissimilarity.moments.pair import SWAPPED, Moments, add, pair_moments
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import cut_sequences
from dissimilarity.probe.padding import SequenceLengths
from tests.helpers.found_measures import SETTINGS, make

MOMENT_SETTINGS = [setting for setting in SETTINGS if isinstance(make(setting), MomentMeasure)]
PLUG_IN = [setting for setting in MOMENT_SETTINGS if not make(setting).crossfit]
"""Moment measures whose error is that of leaving out groups; ``test_crossfit`` holds the others."""
HALVES = [key + HALF for key in ("n", "x", "y", "xx", "yy", "xy", "a", "b", "eps_x", "eps_y")]
LEFT_OUT = ["angular_cka", "angular_cka_biased", "cka", "cka_biased"]
"""Moment measures evaluated again without each group; the others use their derivative."""
SAMPLE_SETTINGS = [setting for setting in SETTINGS if isinstance(make(setting), SampleMeasure)]
GROUPS, LENGTH, SEQUENCES = 16, 8, 64


def draw(sequences: int, p: int, q: int, seed: int, dependence: float = 0.5) -> tuple[Tensor, Tensor]:
    """Draw two noisy views (sequences, LENGTH, width) of one signal; tokens share a part with their sequence."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)

    def tokens(width: int) -> Tensor:
        shared = torch.randn(sequences, 1, width, generator=g)
        separate = torch.randn(sequences, LENGTH, width, generator=g)
        return dependence**0.5 * shared + (1 - dependence) ** 0.5 * separate

    latent = tokens(4)
    first, second = (latent @ torch.randn(4, width, generator=maps) + tokens(width) for width in (p, q))
    return first, second


def graded(sequences: int, p: int, q: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw as `draw` does, with canonical correlations from 0.9 to 0.3, and a last direction of 0.3% on each side.

    Where a correlation is none but for noise, or two are alike, no derivative tells what leaving out a sixteenth of the
    samples does; nor where the number of components that hold 99% of the variance is about to change.
    """
    g = torch.Generator().manual_seed(seed)

    def tokens(width: int) -> Tensor:
        shared, separate = torch.randn(2, sequences, LENGTH, width, generator=g)
        return 0.5 * shared[:, :1] + 0.5**0.5 * separate

    first, second = tokens(p), tokens(q)
    rho = torch.linspace(0.9, 0.3, both := min(p, q))
    second[..., :both] = rho * first[..., :both] + (1 - rho**2).sqrt() * second[..., :both]
    for side in (first, second):
        side *= torch.linspace(1, 0.6, side.shape[-1])
        side[..., -1] *= 0.1
    mixing = [torch.linalg.qr(torch.randn(width, width, generator=g)).Q for width in (p, q)]
    return first @ mixing[0], second @ mixing[1]


def grouped(x: Tensor, y: Tensor) -> tuple[Moments, Moments]:
    """Return total sums and those of each of the groups, in float64."""
    x, y = x.flatten(0, 1).double(), y.flatten(0, 1).double()
    parts = [pair_moments(a, b, x.mean(0), y.mean(0)) for a, b in zip(x.chunk(GROUPS), y.chunk(GROUPS), strict=True)]
    totals: Moments = {}
    for part in parts:
        totals = add(totals, part)
    for part in parts[::2]:
        totals |= {key: totals.get(key, 0) + part[key.removesuffix(HALF)] for key in HALVES}
    return totals, {key: torch.stack([part[key] for part in parts]) for key in parts[0]}


def recomputed(formula: Callable[[Moments], Tensor], totals: Moments, groups: Moments) -> Tensor:
    """Compute the delete-one-group jackknife of the textbook."""
    count = len(groups["n"])
    without = [formula({key: totals[key] - groups[key][g] for key in groups}) for g in range(count)]
    values = torch.stack(without)
    return ((values - values.mean()).square().sum() * (count - 1) / count).sqrt()


def estimated(setting: str, totals: Moments, groups: Moments) -> tuple[float, float]:
    """Return value and standard error of one pair, as the table has them."""
    measure = make(setting)

    def terms(keys: dict[str, str]) -> list[Any]:
        names = {key: name for key, name in keys.items() if name in groups}
        sides = ({"n": sums["n"], **{key: sums[name] for key, name in names.items()}} for sums in (totals, groups))
        return [measure.self_terms(*sides)]

    pair = {key: total[None] for key, total in totals.items()}, {key: part[:, None] for key, part in groups.items()}
    value, influence = measure.estimate(*pair, terms({key: key for key in SWAPPED}), terms(SWAPPED))
    return value.item(), stderr_of_influence(influence).item()


def samples_for(setting: str) -> list[tuple[Tensor, Tensor]]:
    """Return data on which the derivative of a measure is accurate for leaving out one group."""
    if isinstance(make(setting), WhitenedMeasure):
        return [graded(256, p, q, seed) for seed, (p, q) in enumerate([(8, 5), (6, 6), (5, 8)])]
    return [draw(64, p, q, seed) for seed, (p, q) in enumerate([(24, 16), (6, 6), (48, 48)])]


@pytest.mark.parametrize("setting", PLUG_IN)
def test_the_error_is_that_of_leaving_each_group_out(setting: str) -> None:
    """Approximately, where the derivative replaces it."""
    formula = make(setting).from_moments
    for x, y in samples_for(setting):
        totals, groups = grouped(x, y)
        value, stderr = estimated(setting, totals, groups)
        assert value == pytest.approx(formula(totals).item(), abs=1e-12)
        tolerance = 1e-9 if setting in LEFT_OUT else 0.06
        assert stderr == pytest.approx(recomputed(formula, totals, groups).item(), rel=tolerance)
        single = {key: part.float() if part.ndim > 2 else part for key, part in groups.items()}
        assert estimated(setting, totals, single)[1] == pytest.approx(stderr, rel=1e-5)


def by_differences(formula: Callable[[Moments], Tensor], totals: Moments, groups: Moments) -> Tensor:
    """Return the standard error, with each group's influence from a small change of its weight."""

    def changed(group: int, by: float) -> Tensor:
        return formula({key: totals[key] + by * groups[key][group] for key in groups})

    influence = [(changed(group, 1e-4) - changed(group, -1e-4)) / 2e-4 for group in range(len(groups["n"]))]
    return stderr_of_influence(torch.stack(influence))


@pytest.mark.parametrize("setting", sorted({*PLUG_IN} - {*LEFT_OUT}))
def test_the_derivative_is_that_of_the_value(setting: str) -> None:
    """Except for what is ignored on purpose: rotations of close eigenvectors."""
    formula = make(setting).from_moments
    tolerance = {"pwcca": 0.05}.get(setting, 1e-6)
    for x, y in samples_for(setting):
        totals, groups = grouped(x, y)
        stderr = stderr_of_influence(estimate(formula, totals, groups)[1])
        assert stderr.item() == pytest.approx(by_differences(formula, totals, groups).item(), rel=tolerance)


def test_a_massive_token_does_not_dominate_the_error_bar_of_debiased_cka() -> None:
    x, y = draw(64, 24, 16, 0)
    x[0, 3, 2] += 100
    y[0, 3, 5] += 100
    totals, groups = grouped(x, y)
    group = torch.arange(64) * GROUPS // 64
    without = [cka(*(rows[group != g].flatten(0, 1).double() for rows in (x, y)), debiased=True) for g in range(GROUPS)]
    expected = stderr_of_influence(influence_of_left_out(torch.stack(without)))
    assert estimated("cka", totals, groups)[1] == pytest.approx(expected.item(), rel=1e-9)


def test_exact_for_a_mean() -> None:
    """Against the jackknife written out, for groups of equal size, and against the textbook standard error."""
    x, y = draw(GROUPS, 1, 1, 3)
    totals, groups = grouped(x, y)

    def mean(m: Moments) -> Tensor:
        return m["x"][0] / m["n"]

    stderr = stderr_of_influence(estimate(mean, totals, groups)[1])
    means = x.double().mean(1)[:, 0]
    assert stderr.item() == pytest.approx(recomputed(mean, totals, groups).item(), rel=1e-12)
    assert stderr.item() == pytest.approx((means.std() / GROUPS**0.5).item(), rel=1e-12)


def test_exact_for_a_mean_of_values_in_groups() -> None:
    values = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    group = torch.arange(6).repeat_interleave(10)
    means = values.view(6, 10).mean(1)
    value, influence = estimate_weighted(lambda weight: weighted_mean(values, weight), group)
    stderr = stderr_of_influence(influence)
    assert value.item() == pytest.approx(values.mean().item(), rel=1e-12)
    assert stderr.item() == pytest.approx((means.std() / 6**0.5).item(), rel=1e-12)


def test_one_group_has_no_error_bar() -> None:
    assert stderr_of_influence(torch.zeros(1, dtype=torch.float64)).isnan()


@pytest.mark.parametrize("setting", MOMENT_SETTINGS)
def test_equal_sides_have_a_finite_error_bar_of_zero(setting: str) -> None:
    x, _ = draw(32, 6, 6, 5)
    value, stderr = estimated(setting, *grouped(x, x))
    assert value == make(setting).identical
    assert stderr == pytest.approx(0.0, abs=1e-10)


def test_an_error_bar_is_there_under_inference_mode() -> None:
    totals, groups = grouped(*draw(32, 6, 5, 6))
    for setting in ("cka", "bures"):
        with torch.inference_mode():
            sums = ({key: part.clone() for key, part in moments.items()} for moments in (totals, groups))
            inside = estimated(setting, *sums)
        assert inside[1] == estimated(setting, totals, groups)[1] > 0


@pytest.mark.parametrize("setting", SAMPLE_SETTINGS)
def test_the_error_of_a_sample_measure_is_that_of_leaving_groups_out(setting: str) -> None:
    """Recomputed from the rows; neighbor lists depend on pairs of groups, and each pair counts once, not twice."""
    measure = make(setting)
    x, y = (rows.flatten(0, 1).double() for rows in draw(32, 6, 6, 7))
    group = torch.arange(GROUPS).repeat_interleave(len(x) // GROUPS)

    def without(*groups: int) -> float:
        remaining = torch.stack([group != out for out in groups]).all(0)
        return measure.value(x[remaining], y[remaining]).item()

    value, influence = measure.estimate(measure.prepare(x), measure.prepare(y), group)
    stderr = stderr_of_influence(influence)
    assert value.item() == pytest.approx(measure.value(x, y).item(), abs=1e-12)
    single = torch.tensor([without(g) for g in range(GROUPS)], dtype=torch.float64)
    expected = stderr_of_influence(influence_of_left_out(single))
    if "knn" in setting:
        pairs = unit_pairs(GROUPS)
        double = torch.tensor([without(*pair) for pair in pairs.tolist()], dtype=torch.float64)
        expected = stderr_of_influence(influence_of_pairs_left_out(value, single, double, pairs, max(2, measure.k)))
        assert 0.7 < (expected / stderr_of_influence(influence_of_left_out(single))).item() < 1
    # The kernel's bandwidth stays that of all samples.
    assert stderr.item() == pytest.approx(expected.item(), rel=0.05 if "rbf" in setting else 1e-9)


@pytest.mark.parametrize("setting", SAMPLE_SETTINGS)
def test_a_sample_measure_is_differentiable_in_the_weights_of_its_samples(setting: str) -> None:
    """The derivative gives about the error of leaving groups out, except with neighbor lists."""
    measure = make(setting)
    x, y = (measure.prepare(rows.flatten(0, 1).double()) for rows in draw(128, 6, 6, 9))
    group = torch.arange(64).repeat_interleave(128 * LENGTH // 64)
    value, influence = estimate_weighted(lambda weight: measure.between(x, y, weight), group)
    stderr = stderr_of_influence(influence)
    assert value.item() == pytest.approx(measure.between(x, y).item(), abs=1e-12)
    if "knn" not in setting:
        # If ranks did not move with the weights, Spearman's would be off by 0.07.
        tolerance = 0.04 if setting in ("rsa", "rsa_sqeuclidean") else 0.1
        assert stderr.item() == pytest.approx(
            stderr_of_influence(measure.estimate(x, y, group)[1]).item(), rel=tolerance
        )


def test_effects_of_pairs_of_groups_are_counted_once() -> None:
    """A sum over all pairs of groups of products: its variance is known, and the jackknife alone gives twice that."""
    g = torch.Generator().manual_seed(9)
    results = []
    for _ in range(400):
        z = torch.randn(12, generator=g, dtype=torch.float64)

        def total(*out: int, z: Tensor = z) -> Tensor:
            remaining = z.clone()
            remaining[list(out)] = 0
            return (remaining.sum().square() - remaining.square().sum()) / 2

        pairs = unit_pairs(12)
        single = torch.stack([total(g) for g in range(12)])
        double = torch.stack([total(*pair) for pair in pairs.tolist()])
        errors = (
            stderr_of_influence(influence_of_pairs_left_out(total(), single, double, pairs)),
            stderr_of_influence(influence_of_left_out(single)),
        )
        results.append(torch.stack(errors).square())
    corrected, alone = torch.stack(results).mean(0).tolist()
    assert alone > 1.3 * 66 and corrected == pytest.approx(66, rel=0.25)


@pytest.mark.parametrize("together", [2, 3, 5])
def test_effects_of_several_groups_are_counted_once(together: int) -> None:
    """A sum over all sets of K groups of products, and over groups: its variance is known, the jackknife adds K - 1."""
    g, count = torch.Generator().manual_seed(together), 12
    sets, pairs = (torch.combinations(torch.arange(count), size) for size in (together, 2))
    left_out = [(), *((number,) for number in range(count)), *map(tuple, pairs.tolist())]
    of_sets, of_groups = (
        torch.tensor([[not {*members} & {*out} for members in rows] for out in left_out]).double()
        for rows in (sets.tolist(), [[number] for number in range(count)])
    )
    of_sets, of_groups = of_sets / len(sets) ** 0.5, of_groups * (3 * together / count) ** 0.5
    results = []
    for _ in range(400):
        z, alone = torch.randn(2, count, generator=g, dtype=torch.float64)
        value, *rest = of_sets @ z[sets].prod(1) + of_groups @ alone
        single, double = torch.stack(rest[:count]), torch.stack(rest[count:])
        errors = (
            stderr_of_influence(influence_of_pairs_left_out(value, single, double, pairs, together)),
            stderr_of_influence(influence_of_left_out(single)),
        )
        results.append(torch.stack(errors).square())
    # A sum without a group is not scaled up as a mean would be.
    corrected, uncorrected = (torch.stack(results).mean(0) * (count / (count - 1)) ** 2).tolist()
    assert corrected == pytest.approx(3 * together + 1, rel=0.12)
    assert uncorrected == pytest.approx(4 * together, rel=0.12)


@pytest.fixture(scope="module")
def replications() -> dict[str, Tensor]:
    """Return values and error bars (reps, 2) of every setting, over independent draws of dependent tokens."""
    jaxtyping.config.update("jaxtyping_disable", True)
    measures = [make(setting) for setting in SETTINGS]
    lengths = SequenceLengths.of_slices(
        cut_sequences(SEQUENCES, GROUPS, SEQUENCES), max_samples=SEQUENCES * LENGTH // 4
    )
    results: dict[str, list[tuple[float, float]]] = {measure.label: [] for measure in measures}
    for seed in range(40):
        acts = draw(SEQUENCES, 6, 5, 1000 + seed)
        logits = draw(SEQUENCES, 6, 6, 1000 + seed)
        sides = [Side(lengths, only_sampled=frozenset({LOGITS})) for _ in acts]
        cross = Cross([("site", "site")], GROUPS)
        read = [{"site": rows, LOGITS: out[:, : LENGTH // 2]} for rows, out in zip(acts, logits, strict=True)]
        cross.add(*(side.add(rows, range(GROUPS)) for side, rows in zip(sides, read, strict=True)))
        for row in evaluate(measures, sides[0].close(), sides[1].close(), cross.close()):
            results[row["measure"]].append((row["value"], row["stderr"]))
    jaxtyping.config.update("jaxtyping_disable", False)
    return {label: torch.tensor(pairs) for label, pairs in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_errors_are_about_the_spread_over_draws(setting: str, replications: dict[str, Tensor]) -> None:
    """Within a quarter of it or so, in 40 replications, which tell it to an eighth; intervals cover as is stated.

    They are to cover the expectation at the same number of samples: Procrustes and mutual kNN are biased in it.
    """
    value, stderr = replications[make(setting).label].T
    assert 0.75 < (stderr.square().mean().sqrt() / value.std()).item() < 1.3
    covered = (value - value.mean()).abs() < torch.tensor(half_width(stderr.numpy(), GROUPS))
    assert covered.float().mean().item() > 0.85
