"""Sites whose features are so nearly collinear that sums of float32 products lose what tells them apart.

What whitens such a site divides by the small variance along the direction in which they differ. Products of float32
samples round that variance; float64 products of the same samples do not.
"""

from collections.abc import Sequence

from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.numerics.whitening import is_nearly_collinear
from dissimilarity.moments.cross import SitePair
from dissimilarity.moments.side import Side


def rounded_pairs(measures: Sequence[Measure], x: Side, y: Side, pairs: Sequence[SitePair]) -> list[SitePair]:
    """Return the pairs of sites at which measures whiten what float32 products have rounded."""
    if not any(isinstance(measure, WhitenedMeasure) for measure in measures):
        return []
    comparable = (pair for pair in pairs if not (x.problem(pair[0]) or y.problem(pair[1])))
    return [
        (first, second)
        for first, second in comparable
        if (x.is_float32(first) or y.is_float32(second)) and (_is_collinear(x, first) or _is_collinear(y, second))
    ]


def _is_collinear(side: Side, site: str) -> bool:
    """Return whether the features of a site are nearly collinear, computed once per side: it takes a decomposition."""
    if site not in side.collinear:
        side.collinear[site] = is_nearly_collinear(side.counts()[0] | side.totals(site))
    return side.collinear[site]


def rounded(measure: Measure, pair: SitePair) -> str:
    """Return the note for a value from sums that do not resolve a site."""
    return (
        f"{measure.label} is imprecise: features of {pair[0]} or {pair[1]} are nearly collinear, and sums of float32 "
        "products do not tell them apart; pass float64 activations (.double())"
    )
