"""What came out of a comparison of two models from the shell."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from dissimilarity.capture.sites import LOGITS
from dissimilarity.cli.probe_text import Probe
from dissimilarity.cli.verdict import verdict
from dissimilarity.comparison.elementwise import Elementwise
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import SitePair
from dissimilarity.tables.result import AnyTable


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
    """

    labels: tuple[str, str]
    table: AnyTable
    measures: list[Measure]
    matched: list[SitePair]
    differences: Elementwise | None
    probe: Probe

    @cached_property
    def verdict(self) -> str:
        """What came out, in words."""
        first = self.measures[0]
        return verdict(self.at_matched(first), first, self.differences, *self.labels)

    def at_matched(self, measure: Measure) -> list[dict[str, Any]]:
        """Return the rows of a measure at matched sites, in depth order."""
        return self._matched_rows[measure.label]

    @cached_property
    def _matched_rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows at matched sites by measure; only they are turned into Python, with the influences of tokens."""
        names = zip(*(self.table[name].to_pylist() for name in ("measure", "site_a", "site_b")), strict=True)
        places = {name: place for place, name in enumerate(names)}
        pairs = [*self.matched, (LOGITS, LOGITS)]
        rows = {}
        for measure in self.measures:
            present = [places[measure.label, *pair] for pair in pairs if (measure.label, *pair) in places]
            rows[measure.label] = self.table.take(pa.array(present, pa.int64())).to_pylist()
        return rows
