"""Simulations of known truth for verdicts: how often each speaks where there is nothing to say."""

from benchmarks.verdicts import asymmetry, changes, drift, dynamics, generalization, scaling
from benchmarks.verdicts.verdict import Verdict

VERDICTS: tuple[Verdict, ...] = (
    *asymmetry.VERDICTS,
    *changes.VERDICTS,
    *drift.VERDICTS,
    *dynamics.VERDICTS,
    *generalization.VERDICTS,
    *scaling.VERDICTS,
)
