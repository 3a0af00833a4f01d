"""What came out of a comparison of two models from the shell."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dissimilarity.capture.sites import LOGITS
from dissimilarity.cli.probe_text import Probe
from dissimilarity.comparison.elementwise import Elementwise
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import SitePair


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        labels: names of the two sides.
        table: as `compare` returns it.
        measures: the measures, the first of which decides the verdict.
        matched: pairs of sites at equal relative depth.
        differences: number by number; None where the two have other sizes or read other tokens.
        probe: what they were compared on.
        verdict: what came out, in words.
    """

    labels: tuple[str, str]
    table: pa.Table
    measures: list[Measure]
    matched: list[SitePair]
    differences: Elementwise | None
    probe: Probe
    verdict: str

    def at_matched(self, measure: Measure) -> list[dict[str, Any]]:
        """Return the rows of a measure at matched sites, in depth order."""
        rows = {
            (row["site_a"], row["site_b"]): row
            for row in self.table.select([name for name in self.table.column_names if name != "influence"]).to_pylist()
            if row["measure"] == measure.label
        }
        return [rows[pair] for pair in [*self.matched, (LOGITS, LOGITS)] if pair in rows]
