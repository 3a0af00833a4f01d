"""A curve of ticks that share their text, with fresh noise at each: without a change, or moved from some tick on."""

import numpy as np
import pyarrow as pa

from benchmarks.verdicts.verdict import Verdict
from dissimilarity.inference.changes import moves

TICKS, UNITS, AT = 12, 16, 6
TEXT, NOISE = 0.1, 0.02
"""Standard deviations over units: of what all ticks share, and of what is new at each."""


def curve(rng: np.random.Generator, effect: float) -> pa.Table:
    """Return the records of a curve whose values are means over units and rise by the effect at tick `AT`."""
    shared = rng.normal(0.5, TEXT, UNITS)
    at = {"reference": "init", "measure": "cka", "site_a": "s", "site_b": "s", "probe": ""}
    rows = []
    for step in range(TICKS):
        units = shared + rng.exponential(NOISE, UNITS) + effect * (step >= AT)
        value = float(units.mean())
        influence = ((units - value) / UNITS).tolist()
        rows.append({**at, "step": step, "value": value, "dissimilarity": value, "influence": influence})
    return pa.Table.from_pylist(rows)


def _moves(rng: np.random.Generator, effect: float) -> bool:
    (step,) = moves(curve(rng, effect)).values()
    return step == AT if effect else step is not None


VERDICTS = (Verdict("curves", "moves at the step of the change", _moves, 0.05),)
