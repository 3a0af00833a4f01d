"""Pairs of sites of two models at equal relative depth, among those that a table has."""

from collections.abc import Sequence

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import LOGITS


def at_equal_depth(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Return the places of the pairs at equal relative depth, in depth order.

    Sides that share no kind of site are paired in the order of appearance. The outputs are paired where a table has
    nothing else.

    Examples:
        >>> at_equal_depth([("blocks.0.resid_post", "blocks.0.resid_post"), ("logits", "logits")])
        [0]
        >>> at_equal_depth([("logits", "logits")])
        [0]
    """
    places = {pair: place for place, pair in enumerate(pairs)}
    if len(places) > 1:
        places.pop((LOGITS, LOGITS), None)
    sites_a, sites_b = (list(dict.fromkeys(sites)) for sites in zip(*places, strict=True)) if places else ([], [])
    try:
        matched = matched_pairs(sites_a, sites_b)
    except ValueError:
        matched = list(zip(sites_a, sites_b, strict=False))
    return [places[pair] for pair in matched if pair in places]
