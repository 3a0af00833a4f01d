"""Verdicts of the studies on simulated records: rarely wrong without an effect, and not blind to a planted one."""

import pytest

from benchmarks.verdicts import VERDICTS
from benchmarks.verdicts.verdict import ALLOWED, Verdict
from studies.generalization import clusters, parting

DRAWS, PLANTED = 100, 30


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "DRAWS", 199)
    monkeypatch.setattr(parting, "DRAWS", 99)


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: f"{verdict.study}: {verdict.name}")
def test_a_verdict_keeps_its_level_and_has_power(verdict: Verdict) -> None:
    assert verdict.rate(DRAWS) <= ALLOWED
    assert verdict.rate(PLANTED, verdict.effect) >= 0.3
