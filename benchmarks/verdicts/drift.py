"""A model that is as far from one group of references as from another, or nearer to one, on a shared probe set."""

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.verdicts.verdict import Verdict
from dissimilarity.inference.drift import SCHEMA, drift, group_records

REFERENCE, PROBE = 0.1, 0.02
"""Standard deviations of dissimilarities: over references of a kind, and over probe sets."""


def records(rng: np.random.Generator, sizes: dict[str, int], effect: float) -> tuple[list[Any], dict[str, list[str]]]:
    """Return the records of a tick, and the groups; the first group is nearer by the effect."""
    groups = {name: [f"{name}{number}" for number in range(count)] for name, count in sizes.items()}
    at = {"step": 8, "tokens": 80, "measure": "cka", "site_a": "s", "stderr": PROBE}
    rows = []
    for place, labels in enumerate(groups.values()):
        shared = rng.normal(0.5 + effect * (place > 0), PROBE)
        for label in labels:
            rows.append({**at, "reference": label, "dissimilarity": rng.normal(shared, REFERENCE)})
    return rows, groups


def _drifts(sizes: dict[str, int]) -> Any:
    def simulate(rng: np.random.Generator, effect: float) -> bool:
        rows, groups = records(rng, sizes, effect)
        return drift(pa.Table.from_pylist(group_records(rows, groups), schema=SCHEMA))["cka"]["differs"]

    return simulate


VERDICTS = (
    Verdict("drift", "three references each", _drifts({"a": 3, "b": 3}), 0.5),
    Verdict("drift", "three and ten references", _drifts({"a": 3, "b": 10}), 0.5),
    Verdict("drift", "three groups of five", _drifts({"a": 5, "b": 5, "c": 5}), 0.5),
)
