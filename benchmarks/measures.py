"""Measures against the products and decompositions that they require, and against other packages.

float32, default threads. The floor of one CKA is 3 n d^2 operations (the terms of the reference are cached; symmetry
halves the other self term) over the rate of products measured in the same run. The floors of the others are the library
calls themselves, in float32, timed in the same rounds.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.timing import gemm_rate, interleaved, ratio, seconds, show
from dissimilarity import CCA, CKA, PWCCA, RSA, SVCCA, DistanceCorrelation, MutualKNN, Procrustes
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.products import gram

SHAPES = ((4096, 512), (20_000, 768))
FEW = 1024
"""Samples for dcor, which allocates n^2 d numbers at once: 64 GiB for the number of the others."""

Work = Callable[[], object]


def features(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Return two related representations (n, d) in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    return x, x @ torch.randn(d, d, generator=generator) / d**0.5 + torch.randn(n, d, generator=generator)


def run() -> None:
    """Print one CKA, then the other measures."""
    for n, d in SHAPES:
        one_cka(n, d, slow_peers=n == SHAPES[0][0])
    others(*SHAPES[0])


def one_cka(n: int, d: int, slow_peers: bool) -> None:
    """Time one debiased CKA: with the terms of the reference cached, from scratch, and by other packages."""
    x, y = features(n, d)
    measure = CKA()
    reference = measure.prepare(y)
    work: dict[str, Work] = {
        "x'y alone": lambda: x.T @ y,
        "CKA, reference kept": lambda: measure.between(measure.prepare(x), reference),
        "CKA, both sides": lambda: measure.value(x, y),
    }
    if slow_peers:
        work |= peers.debiased_cka(x, y)
    figures = timed(work)
    floor = statistics.median(3 * n * d**2 / gemm_rate() for _ in range(5))
    rows = []
    for name in work:
        middle = statistics.median(figures[name])
        _, times, _ = ratio(figures, name, "CKA, reference kept")
        rows.append(
            {
                f"debiased CKA, n = {n:,}, d = {d}": name,
                "ms": f"{1e3 * middle:.1f}",
                "times the floor": f"{middle / floor:.2f}",
                "times ours": f"{times:.2f}",
            }
        )
    head, _, *rest = rows[0]
    rows.append({head: "floor: 3 n d^2", "ms": f"{1e3 * floor:.1f}", **dict.fromkeys(rest, "")})
    show(rows)


def others(n: int, d: int) -> None:
    """Time the other measures, each against its floor or its straightforward form."""
    x, y = features(n, d)
    numpy_x, numpy_y = x.numpy(), y.numpy()
    xy, c = x.T @ y, x.T @ x + torch.eye(d)
    triangle = torch.linalg.cholesky(c)

    def moments() -> None:
        gram(x[None])
        gram(y[None])
        torch.mm(x.T, y)

    def factors() -> None:
        for _ in range(2):
            torch.linalg.cholesky(c)
            torch.linalg.solve_triangular(triangle, xy, upper=False)

    def neighbors() -> None:
        for z in (x, y):
            for rows in z.split(1024):
                (rows @ z.T).topk(10)

    floors: dict[str, tuple[Measure, Work]] = {
        "Procrustes": (Procrustes(), lambda: (moments(), torch.linalg.svdvals(xy))),
        "mean CCA": (CCA(), lambda: (moments(), factors(), torch.linalg.svdvals(xy))),
        "PWCCA": (PWCCA(), lambda: (moments(), factors(), torch.linalg.eigh(c))),
        "SVCCA": (SVCCA(), lambda: (moments(), torch.linalg.eigh(c), torch.linalg.eigh(c), torch.linalg.svdvals(xy))),
        "mutual kNN": (MutualKNN(max_samples=n), neighbors),
        "RSA": (RSA(max_samples=n), lambda: peers.rsa(numpy_x, numpy_y)),
        "distance correlation": (
            DistanceCorrelation(max_samples=n),
            lambda: peers.distance_correlation(numpy_x, numpy_y),
        ),
    }
    rows = []
    for name, (measure, other) in floors.items():
        figures = timed({"ours": lambda measure=measure: measure.value(x, y), "other": other})
        _, times, _ = ratio(figures, "ours", "other")
        against = "numpy and scipy" if name in ("RSA", "distance correlation") else "products and decompositions"
        rows.append(_row(n, d, name, against, figures, times))
    few = slice(0, FEW)
    if dcor := peers.installed("dcor"):
        work: dict[str, Work] = {
            "ours": lambda: DistanceCorrelation().value(x[few], y[few]),
            "other": lambda: dcor.distance_correlation(numpy_x[few].astype(float), numpy_y[few].astype(float)),
        }
        figures = timed(work)
        rows.append(_row(n, d, f"distance correlation, n = {FEW}", "dcor", figures, ratio(figures, "ours", "other")[1]))
    show(rows)


def _row(n: int, d: int, name: str, against: str, figures: dict[str, list[float]], times: float) -> dict[str, str]:
    ours, other = (1e3 * statistics.median(figures[key]) for key in ("ours", "other"))
    speed = f"{times:.2f} times" if times > 0.8 else f"{1 / times:.1f} times faster"
    return {
        f"n = {n:,}, d = {d}": name,
        "ms": f"{ours:.1f}",
        "against": against,
        "its ms": f"{other:.1f}",
        "ours is": speed,
    }


def timed(work: dict[str, Work]) -> dict[str, list[float]]:
    """Return the seconds of each, measured in turn."""
    return interleaved({name: lambda action=action: seconds(action) for name, action in work.items()})
