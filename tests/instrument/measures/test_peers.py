"""Our values against packages that others made (`pip install -e ".[peers]"`); where one differs, why, and who is
right.

A peer is right or wrong by the definitions in tests/helpers/oracles.py, which every measure is held to without any
peer.
"""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from dissimilarity import CKA, compare
from dissimilarity.functional import (
    bures,
    cka,
    distance_correlation,
    linear_regression,
    minibatch_cka,
    procrustes,
    pwcca,
    rsa,
    svcca,
)
from dissimilarity.probe.rearrangement import circles, following
from tests.helpers.found_measures import related


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason='needs pip install -e ".[peers]"')


def centered(n: int = 120, p: int = 9, q: int = 6) -> tuple[Tensor, Tensor]:
    x, y = related(n, p, q)
    return x - x.mean(0), y - y.mean(0)


def test_ckatorch_agrees_on_both_estimators() -> None:
    core = peer("ckatorch.core")
    x, y = related(120, 9, 6)
    assert cka(x, y).item() == pytest.approx(core.cka_base(x, y, unbiased=True).item(), abs=1e-10)
    assert cka(x, y, debiased=False).item() == pytest.approx(core.cka_base(x, y).item(), abs=1e-10)


def test_ckatorch_agrees_on_the_ratio_of_means() -> None:
    core = peer("ckatorch.core")
    x, y = centered()
    peer_value = core.cka_batch(x.unflatten(0, (4, 30)), y.unflatten(0, (4, 30))).item()
    assert minibatch_cka(x, y, reduction="ratio_of_means", batch=30).item() == pytest.approx(peer_value, abs=1e-10)


def test_torch_cka_agrees_near_the_origin_and_loses_digits_far_from_it() -> None:
    hsic = peer("torch_cka").CKA._HSIC
    device = SimpleNamespace(device="cpu")

    def peer_value(x: Tensor, y: Tensor) -> float:
        k, l = ((z @ z.T).fill_diagonal_(0) for z in (x, y))  # noqa: E741
        return hsic(device, k, l) / (hsic(device, k, k) * hsic(device, l, l)) ** 0.5

    x, y = (z.float() for z in centered())
    assert cka(x, y).item() == pytest.approx(peer_value(x, y), abs=1e-5)
    far = x + 100
    assert cka(far, y).item() == pytest.approx(cka(x, y).item(), abs=1e-5)
    # An uncentered Gram matrix in float32 holds the offset's square, and what is compared drowns in its rounding.
    assert not abs(peer_value(far, y) - cka(x, y).item()) < 1e-3


def test_pytorch_cka_agrees_where_the_value_is_positive_and_clamps_it_elsewhere() -> None:
    peer_value = peer("cka").cka_from_features
    x, y = centered()
    assert cka(x, y).item() == pytest.approx(peer_value(x, y).item(), abs=1e-10)
    g = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 40, 8, generator=g, dtype=torch.float64) for _ in range(40)]
    ours = torch.stack([cka(x, y) for x, y in draws])
    clamped = torch.stack([peer_value(*draw).squeeze() for draw in draws])
    # Independent data: unbiased means about zero. Cutting the negative half off is a bias.
    assert (ours < 0).any() and ours.mean().abs() < 0.03
    assert bool((clamped >= 0).all()) and clamped.mean() > 2 * ours.mean().abs()


def test_cka_pytorch_agrees_on_hsic_and_is_not_scale_invariant() -> None:
    """Only this file of the package loads without a second copy of Lightning; the fault is in its calculator."""
    hsic1 = _file_of("cka_pytorch", "hsic").hsic1
    x, y = centered()

    def of(x: Tensor, y: Tensor) -> Tensor:
        return hsic1((x @ x.T)[None], (y @ y.T)[None])[0]

    def peer_value(x: Tensor, y: Tensor) -> float:
        return (of(x, y) / (of(x, x).sqrt() * of(y, y).sqrt() + 1e-4)).item()

    assert cka(x, y).item() == pytest.approx((of(x, y) / (of(x, x) * of(y, y)).sqrt()).item(), abs=1e-10)
    assert peer_value(0.01 * x, 0.01 * x) < 0.5, "the 1e-4 that it adds to the denominator"
    assert cka(0.01 * x, 0.01 * x).item() == 1.0


def test_calibrated_similarity_agrees_on_p_of_a_pair_and_of_the_best_pair() -> None:
    """With our rearrangements of sequences. Its score has the 95th percentile of the null where ours has the mean."""
    theirs, nulls, (sequences, length) = peer("calibrated_similarity"), 39, (12, 5)
    sequence = torch.arange(sequences).repeat_interleave(length)
    g = torch.Generator().manual_seed(0)
    x, y = (
        {site: torch.randn(sequences, length, 6, generator=g, dtype=torch.float64) for site in "ab"} for _ in range(2)
    )
    y["a"] += 0.4 * x["b"]
    rows = compare(x, y, measures=[CKA()], nulls=nulls).to_pylist()

    def value(a: Tensor, b: Tensor) -> Tensor:
        return cka(a, b, units=sequence)

    def options() -> Any:
        """Return what makes theirs take our rearrangements, the inverse ones because it moves the second side."""
        orders = iter(following(circles(torch.ones(sequences, dtype=torch.int64), nulls)).argsort(1))
        positions = torch.arange(length)
        return {"K": nulls, "perm_fn": lambda n, device: (next(orders)[:, None] * length + positions).flatten()}

    sides = [[side[site].flatten(0, 1) for site in "ab"] for side in (x, y)]
    for row in rows:
        a, b = (side["ab".index(site)] for side, site in zip(sides, (row["site_a"], row["site_b"]), strict=True))
        score, p, tau = theirs.calibrate(a, b, value, **options())
        assert row["p"] == pytest.approx(p.item())
        assert score.item() == pytest.approx(max(0, (row["value"] - tau.item()) / (1 - tau.item())), abs=1e-6)
        assert row["null"] < tau.item()
        assert row["calibrated"] == pytest.approx((row["value"] - row["null"]) / (1 - row["null"]))
    _, p, _ = theirs.calibrate_layers(*sides, value, **options())
    best = max(rows, key=lambda row: row["value"])
    assert best["p_best"] == pytest.approx(p.item()) and best["p_best"] < 0.05 < max(row["p"] for row in rows)


def _file_of(package: str, name: str) -> ModuleType:
    package_spec = importlib.util.find_spec(package)
    if package_spec is None or not package_spec.submodule_search_locations:
        pytest.skip(f"needs pip install --no-deps {package.replace('_', '-')}")
    spec = importlib.util.spec_from_file_location(name, f"{package_spec.submodule_search_locations[0]}/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rsatoolbox_agrees_on_rsa() -> None:
    data, rdms = peer("rsatoolbox.data"), peer("rsatoolbox.rdm")
    x, y = related(40, 9, 6)
    for ours, method in ((("correlation", "spearman"), "spearman"), (("sqeuclidean", "pearson"), "corr")):
        rdm, compared = ours
        distance = "correlation" if rdm == "correlation" else "euclidean"
        peer_value: list[Any] = [rdms.calc_rdm(data.Dataset(z.numpy()), method=distance) for z in (x, y)]
        value = float(np.squeeze(rdms.compare(*peer_value, method=method)))
        assert rsa(x, y, rdm=rdm, compare=compared).item() == pytest.approx(value, abs=1e-6)  # pyright: ignore


def test_dcor_agrees_on_both_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its estimators for several dimensions are NumPy; those for one would be compiled for a minute, by the import."""
    for name in ("numba", "numba.types"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    dcor = peer("dcor")
    for name in [name for name in sys.modules if name.split(".")[0] == "dcor"]:
        del sys.modules[name]
    x, y = related(80, 9, 6)
    assert distance_correlation(x, y).item() == pytest.approx(
        float(dcor.distance_correlation(x.numpy(), y.numpy())), abs=1e-12
    )
    assert distance_correlation(x, y, debiased=True).item() == pytest.approx(
        float(dcor.u_distance_correlation_sqr(x.numpy(), y.numpy())), abs=1e-12
    )


def test_pot_agrees_on_the_bures_similarity() -> None:
    """Its distance between Gaussians of covariances K and L holds the same nuclear norm; it wants them of full rank."""
    gaussian = peer("ot.gaussian")
    basis = torch.linalg.svd(torch.ones(1, 30, dtype=torch.float64)).Vh[1:]
    x, y = related(30, 60, 50)
    k, l = (((basis @ z) @ (basis @ z).T).numpy() for z in (x, y))  # noqa: E741
    squared = float(gaussian.bures_distance(k, l)) ** 2
    trace = np.trace(k) + np.trace(l)
    cosine = (trace - squared) / 2 / np.sqrt(np.trace(k) * np.trace(l))
    assert bures(x, y).item() == pytest.approx(cosine, abs=1e-6)


def test_torchmetrics_agrees_on_procrustes_of_equal_widths() -> None:
    from torchmetrics.functional.shape import procrustes_disparity

    x, y = related(60, 7, 7)
    disparity: Any = procrustes_disparity(x[None], y[None])
    assert 1 - procrustes(x, y).cos().square().item() == pytest.approx(disparity.item(), abs=1e-10)


def test_scikit_learn_agrees_on_regression() -> None:
    linear = peer("sklearn.linear_model")
    from sklearn.metrics import r2_score  # pyright: ignore[reportMissingImports]

    x, y = related(80, 9, 6)
    predicted = linear.LinearRegression().fit(x.numpy(), y.numpy()).predict(x.numpy())
    value = r2_score(y.numpy(), predicted, multioutput="variance_weighted")
    assert linear_regression(x, y).item() == pytest.approx(value, abs=1e-10)


def test_repsim_agrees_on_biased_cka_and_on_the_mean_of_both_directions_of_pwcca() -> None:
    repsim = peer("repsim")
    x, y = related(120, 6, 6)
    pair = [np.ascontiguousarray(z.numpy()) for z in (x, y)]
    peer_value = float(np.asarray(repsim.pwcca(pair))[0, 1])
    assert (pwcca(x, y) + pwcca(y, x)).item() / 2 == pytest.approx(peer_value, abs=1e-6)


def test_repsim_svcca_reduces_nothing() -> None:
    """It makes the columns orthonormal before it looks for the components of most variance: none stands out."""
    repsim = peer("repsim")
    x, y = related(200, 12, 12)
    stretched = x * torch.logspace(0, -4, 12, dtype=torch.float64)
    pair = [np.ascontiguousarray(z.numpy()) for z in (stretched, y)]
    peer_value = float(np.asarray(repsim.svcca(pair))[0, 1])
    assert abs(svcca(stretched, y).item() - peer_value) > 0.01
