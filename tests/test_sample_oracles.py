"""Sample and output measures against their definitions: hard shapes, hard numbers, short precisions."""

from collections.abc import Callable

import numpy as np
import pytest
import sample_oracles
import torch
from oracles import Array
from test_oracles import CASES, related
from torch import Tensor

from dissimilarity.functional import (
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
    """Each row of x three times, and of y in runs of other lengths: zero distances, and ties of nine."""
    x, y = related(120, 24, 17, seed=3)
    return x[np.arange(120) // 3], y[np.sort(np.random.default_rng(4).integers(0, 60, 120))]


def small_numbers() -> tuple[Array, Array]:
    """Whole numbers, of whose distances most are tied."""
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
