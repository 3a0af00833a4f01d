"""Values against the definitions: hard shapes, hard numbers, short precisions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dissimilarity.functional import (
    angular_cka,
    bures,
    cca,
    cka,
    gulp,
    linear_regression,
    mutual_knn,
    permutation_procrustes,
    procrustes,
    pwcca,
    svcca,
)
from dissimilarity.measures.numerics.neighbors import nearest_neighbors
from tests.helpers import oracles
from tests.helpers.oracles import Array

Function = Callable[[Tensor, Tensor], Tensor]
Oracle = Callable[[Array, Array], float]

MOMENT_MEASURES: dict[str, tuple[Function, Oracle]] = {
    "debiased": (cka, oracles.debiased_cka),
    "biased": (lambda x, y: cka(x, y, debiased=False), oracles.biased_cka),
    "squared": (lambda x, y: procrustes(x, y, kind="squared"), oracles.procrustes_squared),
    "angular": (procrustes, oracles.procrustes_angle),
    "cca": (cca, oracles.cca_mean),
    "cca_mean_square": (lambda x, y: cca(x, y, "mean_square"), oracles.cca_mean_square),
    "cca_r2": (lambda x, y: cca(x, y, "r2"), oracles.cca_r2),
    "svcca": (svcca, oracles.svcca),
    "pwcca": (pwcca, oracles.pwcca),
    "linear_regression": (linear_regression, oracles.linear_regression),
    "gulp": (gulp, oracles.gulp),
    "bures": (bures, oracles.bures),
    "permutation_procrustes": (permutation_procrustes, oracles.permutation_procrustes_angle),
    "permutation_procrustes_squared": (
        lambda x, y: permutation_procrustes(x, y, "squared"),
        oracles.permutation_procrustes_squared,
    ),
    "angular_cka": (angular_cka, oracles.angular_cka),
    "angular_cka_biased": (lambda x, y: angular_cka(x, y, debiased=False), oracles.angular_cka_biased),
}


def related(n: int, p: int, q: int, seed: int = 0) -> tuple[Array, Array]:
    """Return two noisy views of one latent signal."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 8))
    return tuple(latent @ rng.normal(size=(8, d)) + rng.normal(size=(n, d)) for d in (p, q))  # pyright: ignore


def plain() -> tuple[Array, Array]:
    return related(300, 24, 17)


def fewer_samples_than_dimensions() -> tuple[Array, Array]:
    return related(20, 64, 48)


def rank_deficient() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(100, 3))
    return latent @ rng.normal(size=(3, 30)), latent @ rng.normal(size=(3, 40))


def constant_column() -> tuple[Array, Array]:
    x, y = plain()
    x[:, 2] = 7.0
    return x, y


def one_outlier() -> tuple[Array, Array]:
    x, y = plain()
    x[5] *= 1e4 / np.linalg.norm(x[5])
    y[5] *= 1e4 / np.linalg.norm(y[5])
    return x, y


def outlier_dimensions() -> tuple[Array, Array]:
    x, y = plain()
    x[:, 3] *= 1e3
    y[:, 4] *= 300
    return x, y


def uneven_spectrum() -> tuple[Array, Array]:
    x, y = related(400, 64, 64)
    return x * np.logspace(0, 5, 64), y


def far_from_the_origin() -> tuple[Array, Array]:
    x, y = plain()
    return x + 1e4 * x.std() * np.random.default_rng(2).choice([-1, 1], size=24), y


CASES = (
    plain,
    fewer_samples_than_dimensions,
    rank_deficient,
    constant_column,
    one_outlier,
    outlier_dimensions,
    uneven_spectrum,
    far_from_the_origin,
)


@pytest.mark.parametrize("measure", MOMENT_MEASURES)
@pytest.mark.parametrize("case", CASES)
def test_float64_rows_give_the_definition(case: Callable[[], tuple[Array, Array]], measure: str) -> None:
    x, y = case()
    function, oracle = MOMENT_MEASURES[measure]
    assert function(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(oracle(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", [name for name in MOMENT_MEASURES if name != "angular"])
@pytest.mark.parametrize("case", CASES)
def test_float32_rows_cost_a_millionth(case: Callable[[], tuple[Array, Array]], measure: str) -> None:
    """Against the definition in float64 on the same float32 rows; a millionth of what is larger than 1."""
    x, y = (torch.tensor(z).float() for z in case())
    function, oracle = MOMENT_MEASURES[measure]
    expected = oracle(x.double().numpy(), y.double().numpy())
    assert function(x, y).item() == pytest.approx(expected, abs=1e-6 * max(1.0, abs(expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measure", MOMENT_MEASURES)
def test_half_precision_rows_cost_a_thousandth(measure: str, dtype: torch.dtype) -> None:
    x, y = (torch.tensor(z).float() for z in plain())
    function, _ = MOMENT_MEASURES[measure]
    assert function(x.to(dtype), y.to(dtype)).item() == pytest.approx(function(x, y).item(), abs=1e-3)


@pytest.mark.parametrize("magnitude", [1e2, 1e3, 1e4])
def test_a_massive_activation_in_one_token_costs_float32_little(magnitude: float) -> None:
    """The rounding of its products would be larger than the contribution of all other rows."""
    x, y = related(1024, 32, 32)
    x[3, 5] += magnitude
    y[3, 6] += magnitude
    a, b = torch.tensor(x).float(), torch.tensor(y).float()
    expected = oracles.debiased_cka(a.double().numpy(), b.double().numpy())
    assert cka(a, b).item() == pytest.approx(expected, abs=1e-5 if magnitude == 1e4 else 1e-6)


def test_the_angle_near_zero_has_no_more_noise_than_documented() -> None:
    rng = np.random.default_rng(3)
    x, _ = plain()
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        y = x + size * rng.normal(size=x.shape)
        expected = oracles.procrustes_angle(x, y)
        assert procrustes(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(expected, abs=2e-6)
        near = procrustes(torch.tensor(x).float(), torch.tensor(y).float()).item()
        assert near == pytest.approx(expected, abs=min(1e-3, 1e-6 / expected))


def test_equal_rows_have_distance_zero_for_any_spectrum() -> None:
    for case in CASES:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            if case is far_from_the_origin and dtype == torch.bfloat16:
                continue  # of which bfloat16 keeps the mean alone
            for rows in (torch.tensor(z).to(dtype) for z in case()):
                assert procrustes(rows, rows).item() == 0.0
                assert cka(rows, rows).item() == 1.0


def test_independent_data_give_debiased_cka_about_zero_at_any_width() -> None:
    rng = np.random.default_rng(4)
    draws = [[torch.tensor(rng.normal(size=(64, 200))) for _ in range(2)] for _ in range(50)]
    debiased = torch.stack([cka(x, y) for x, y in draws])
    biased = torch.stack([cka(x, y, debiased=False) for x, y in draws])
    assert abs(debiased.mean().item()) < 4 * debiased.std().item() / 50**0.5 < 0.02
    assert biased.mean().item() > 0.7


@pytest.mark.parametrize(
    ("tokens", "norm", "debiased", "biased"),
    [(0, 1, 0.0, None), (1, 300, 0.0, 0.97), (2, 300, 0.97, None), (3, 300, 0.99, None), (5, 100, 0.92, None)],
)
def test_shared_outlier_tokens_alone_look_like_similarity(
    tokens: int, norm: float, debiased: float, biased: float | None
) -> None:
    """Independent features, to a few tokens of which each side adds a vector of its own (a massive activation)."""
    rng = np.random.default_rng(5)
    pairs = []
    for _ in range(6):
        x, y = rng.normal(size=(2, 1024, 64))
        for z in (x, y):
            direction = rng.normal(size=64)
            z[:tokens] += norm * direction / np.linalg.norm(direction)
        a, b = torch.tensor(x), torch.tensor(y)
        pairs.append((cka(a, b).item(), cka(a, b, debiased=False).item()))
    value, value_biased = np.mean(pairs, axis=0)
    assert value == pytest.approx(debiased, abs=0.03 if tokens == 1 else 0.006)
    assert biased is None or value_biased == pytest.approx(biased, abs=0.006)


def test_rows_at_right_angles_have_no_debiased_cka() -> None:
    """One-hot rows: every U-centered entry is zero, so that whatever came out would be rounding over rounding."""
    for n in (8, 20, 64):
        rows = torch.eye(n, dtype=torch.float64)
        assert cka(rows, torch.randn(n, 5, dtype=torch.float64)).isnan()
        assert cka(3 * rows + 1, rows).isnan()


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.integers(12, 40), st.integers(1, 10), st.integers(1, 6))
def test_mutual_knn_with_loops(seed: int, n: int, k: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d + 1)), rng.normal(size=(n, d + 2))
    assert mutual_knn(torch.tensor(x), torch.tensor(y), k).item() == pytest.approx(oracles.mutual_knn(x, y, k))


def test_ties_go_to_the_lower_index() -> None:
    """Rows on the axes of a cross: each has one opposite, and all others at exactly the same angle."""
    axes = np.repeat(np.eye(4), 3, axis=0) * np.tile([1.0, 2.0, 4.0], 4)[:, None]
    rows = np.concatenate([axes, -axes])
    for k in (1, 2, 3, 5, 10):
        lists = nearest_neighbors(torch.tensor(rows), k)
        assert [set(row.tolist()) for row in lists] == oracles.neighbors(rows, k)
        assert bool((lists.diff(dim=1) > 0).all()) if k > 1 else True


def test_duplicate_rows_are_neighbors_and_a_row_is_never_its_own() -> None:
    rng = np.random.default_rng(6)
    rows = np.repeat(rng.integers(-3, 4, size=(10, 3)).astype(np.float64) + 0.5, 4, axis=0)
    lists = nearest_neighbors(torch.tensor(rows), 3)
    for i, row in enumerate(lists.tolist()):
        assert i not in row
        assert len(set(row)) == 3
    other = rng.normal(size=(40, 5))
    assert mutual_knn(torch.tensor(rows), torch.tensor(other), 3).item() == pytest.approx(
        oracles.mutual_knn(rows, other, 3)
    )


def test_neighbors_do_not_depend_on_the_size_of_the_blocks() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert torch.equal(nearest_neighbors(x, 5, at_once=7), nearest_neighbors(x, 5))
