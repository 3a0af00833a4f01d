"""Simulations of known truth for the verdicts of the studies: how often each speaks where there is nothing to say."""

from benchmarks.verdicts import asymmetry, drift, dynamics, generalization, scaling
from benchmarks.verdicts.verdict import Verdict

VERDICTS: tuple[Verdict, ...] = (
    *asymmetry.VERDICTS,
    *drift.VERDICTS,
    *dynamics.VERDICTS,
    *generalization.VERDICTS,
    *scaling.VERDICTS,
)
