"""What came out of a comparison of two models from the shell."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from dissimilarity.cli.messages import in_shell_words
from dissimilarity.cli.probe_text import Probe
from dissimilarity.cli.verdict import verdict
from dissimilarity.comparison.elementwise import Elementwise
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import SitePair
from dissimilarity.tables.curves import select
from dissimilarity.tables.equal_depth import at_equal_depth
from dissimilarity.tables.result import AnyTable


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        labels: names of the two sides.
        table: as `compare` returns it.
        measures: the measures, the first of which decides the verdict.
        matched: pairs of sites at equal relative depth.
        differences: element by element; None where the two have other sizes or read other tokens.
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
        return verdict(self.at_matched(first), first, self.differences, *self.labels, self.are_arrays)

    @property
    def are_arrays(self) -> bool:
        """Whether both sides are saved activations, which need not be of text or of models."""
        return self.probe.inputs is None

    def at_matched(self, measure: Measure) -> list[dict[str, Any]]:
        """Return the rows of a measure at matched sites, in depth order."""
        return self._matched_rows[measure.label]

    @cached_property
    def _matched_rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows at matched sites by measure; only they are turned into Python, with the influences of tokens."""
        rows = {}
        for measure in self.measures:
            table = select(self.table, measure=measure.label)
            pairs = list(zip(table["site_a"].to_pylist(), table["site_b"].to_pylist(), strict=True))
            taken = table.take(pa.array(at_equal_depth(pairs), pa.int64())).to_pylist()
            rows[measure.label] = [{**row, "note": in_shell_words(row["note"])} for row in taken]
        return rows
