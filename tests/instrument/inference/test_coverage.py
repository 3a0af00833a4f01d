"""Error bars of stored activations have the size of the spread over fresh text, also where a whitening is fitted."""

import jaxtyping
import pytest

from benchmarks.coverage import Design, coverage
from dissimilarity import CCA, CKA, PWCCA, Procrustes
from dissimilarity.measures.base.moment_measure import MomentMeasure

DESIGN = Design(sequences=32, length=8, width=48, kind="near")
"""Few samples per dimension, which is where the derivative of a whitened measure is too small."""
DRAWS = 30


class UncorrectedCCA(CCA):
    """CCA without the leverage of sequences on the whitening."""

    def whitened(self, side: object) -> None:
        return None

    @property
    def label(self) -> str:
        return "uncorrected"


@pytest.fixture(scope="module")
def sizes() -> dict[str, tuple[float, float]]:
    jaxtyping.config.update("jaxtyping_disable", True)
    measures: list[MomentMeasure] = [CKA(), Procrustes(), CCA(), PWCCA(), UncorrectedCCA()]
    try:
        return coverage(DESIGN, measures, DRAWS)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("label", ["cka", "procrustes", "cca", "pwcca"])
def test_the_error_bar_is_as_large_as_the_spread(label: str, sizes: dict[str, tuple[float, float]]) -> None:
    """Within three standard errors of the spread itself, which is known to 13%."""
    share, size = sizes[label]
    assert 0.7 < size < 1.5
    assert share > 0.83


def test_without_the_leverage_the_error_bar_of_cca_is_too_small(sizes: dict[str, tuple[float, float]]) -> None:
    assert sizes["uncorrected"][1] < 0.93 * sizes["cca"][1]
