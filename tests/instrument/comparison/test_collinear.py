"""Nearly collinear features: float32 samples get the value that their exact sums have, or a note says that it is none.

The expected values are computed by numpy from the samples themselves, in float64.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CCA, CKA, PWCCA, LinearRegression, compare
from dissimilarity.functional import cca, linear_regression

SEQUENCES, LENGTH, GAP = 64, 64, 1e-3


def correlations(x: Tensor, y: Tensor) -> np.ndarray:
    """Return the canonical correlations of samples (n, p), (n, q)."""
    bases = [np.linalg.qr((side.double() - side.double().mean(0)).numpy())[0] for side in (x, y)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def predicted(x: Tensor, y: Tensor) -> float:
    """Return R^2 of y from x."""
    a, b = ((side.double() - side.double().mean(0)).numpy() for side in (x, y))
    residual = b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    return 1 - (residual**2).sum() / (b**2).sum()


def sides(length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Return x with two features of which the second is almost the first, and y that reads their difference."""
    g = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(SEQUENCES, length, width, generator=g) for width in (8, 2))
    x = z.clone()
    x[..., 1] = z[..., 0] + GAP * z[..., 1]
    return x, z[..., 1:3] + 0.3 * noise


def flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.flatten(0, 1), y.flatten(0, 1)


@pytest.mark.parametrize("options", [{"nulls": 8}, {"n_units": 8}, {"null": False}], ids=str)
def test_float32_activations_have_the_values_of_their_exact_sums(options: dict[str, Any]) -> None:
    x, y = sides()
    measures = [CKA(), CCA(), CCA(reduction="mean_square"), LinearRegression()]
    rows = compare({"s": x}, {"t": y}, measures=measures, **options).to_pylist()
    rho = correlations(*flat(x, y))
    expected = [rho.mean(), (rho**2).mean(), predicted(*flat(x, y))]
    np.testing.assert_allclose([row["value"] for row in rows[1:]], expected, rtol=1e-7)
    assert not any(row["note"] for row in rows)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("crossfit", [False, True])
@pytest.mark.parametrize("kind", [CCA, PWCCA, LinearRegression])
def test_everything_in_a_row_is_that_of_float64_activations(kind: Any, crossfit: bool, swapped: bool) -> None:
    first, second = sides(16)[::-1] if swapped else sides(16)
    nulls = 1 if crossfit else 8
    rows = [
        compare({"s": a}, {"t": b}, measures=[kind(crossfit=crossfit)], nulls=nulls).to_pylist()[0]
        for a, b in ((first, second), (first.double(), second.double()), (first.double(), second))
    ]
    for row in rows[1:]:
        for name in ("value", "stderr", "null", "calibrated", "calibrated_stderr", "p"):
            assert row[name] == pytest.approx(rows[0][name], rel=1e-5, abs=1e-8, nan_ok=True), name


def test_functions_agree_with_compare_beyond_small_sides() -> None:
    x, y = flat(*sides(length=256))
    assert x.numel() > 2**16
    assert cca(x, y).item() == pytest.approx(correlations(x, y).mean(), rel=1e-7)
    assert linear_regression(x, y).item() == pytest.approx(predicted(x, y), rel=1e-7)
    assert CCA()(x, y).item() == pytest.approx(correlations(x, y).mean(), rel=1e-6)
    metric = LinearRegression()
    for batch in zip(x.split(9000), y.split(9000), strict=True):
        metric.update(*batch)
    assert metric.compute().item() == pytest.approx(predicted(x, y), rel=1e-6)


def test_a_direction_that_only_rounding_leaves_is_still_missing() -> None:
    """Outputs of a normalization have one direction less than features."""
    g = torch.Generator().manual_seed(0)
    z, scale = torch.randn(SEQUENCES, LENGTH, 16, generator=g), 1 + 0.3 * torch.rand(16, generator=g)
    x, y = nn.functional.layer_norm(z, (16,)) * scale, z[..., :4] + torch.randn(SEQUENCES, LENGTH, 4, generator=g)
    (row,) = compare({"s": x}, {"t": y}, measures=[CCA(reduction="r2")]).to_pylist()
    inside = correlations(x[..., :15].flatten(0, 1), y.flatten(0, 1))  # the last feature follows from the others
    assert row["value"] == pytest.approx((inside**2).sum() / 15, rel=1e-5)


class Lookup(nn.Module):
    """A model whose one block returns given activations."""

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Embedding.from_pretrained(activations.flatten(0, 1))])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks[0](tokens)


@pytest.mark.parametrize(
    ("measure", "options"), [(LinearRegression(), {"n_units": 8}), (CCA(crossfit=True), {})], ids=["units", "crossfit"]
)
def test_a_stream_that_rounds_says_so(measure: Any, options: dict[str, Any]) -> None:
    x, y = sides()
    tokens = torch.arange(SEQUENCES * LENGTH).view(SEQUENCES, LENGTH)
    options |= {"sites": "blocks.0", "measures": [CKA(), measure], "null": False}
    notes = [
        [row["note"] for row in compare(Lookup(a), Lookup(y), tokens, **options).to_pylist()]
        for a in (x, torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    ]
    assert "nearly collinear" in notes[0][1] and ".double()" in notes[0][1]
    assert notes[0][0] == "" and notes[1] == ["", ""]
