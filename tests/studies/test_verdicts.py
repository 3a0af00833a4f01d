"""Verdicts of the studies on simulated records: rarely wrong without an effect, and not blind to a planted one."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.verdicts import VERDICTS, scaling
from benchmarks.verdicts.verdict import ALLOWED, Verdict
from studies.generalization import clusters, parting
from studies.scaling.numbers import Findings

DRAWS, PLANTED = 100, 30


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 199)
    monkeypatch.setattr(parting, "DRAWS", 99)


@pytest.fixture(autouse=True, scope="module")
def _models_compared_once() -> Iterator[None]:
    """Two verdicts of the scaling study are about the same models."""
    compared, results = scaling.compared, dict[tuple[float, ...], Findings]()

    def once(rng: np.random.Generator, effect: float) -> Findings:
        seeds = rng.bit_generator.seed_seq
        key = (*seeds.entropy, *seeds.spawn_key, effect)  # pyright: ignore[reportAttributeAccessIssue]
        if key not in results:
            results[key] = compared(rng, effect)
        return results[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "compared", once)
        yield


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: f"{verdict.study}: {verdict.name}")
def test_a_verdict_keeps_its_level_and_has_power(verdict: Verdict) -> None:
    assert verdict.rate(DRAWS) <= ALLOWED
    assert verdict.rate(PLANTED, verdict.effect) >= 0.3
