"""Values of sample measures at pairs of sites, with influences of units and a null, from the samples they read."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dissimilarity.capture.site_names import site_name
from dissimilarity.comparison.missing import too_few, without_null
from dissimilarity.comparison.outcome import Result, failed, outcome
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import SitePair
from dissimilarity.moments.side import Side
from dissimilarity.probe.padding import SampledSubset
from dissimilarity.probe.rearrangement import broken


def from_samples(
    measure: SampleMeasure, x: Side, y: Side, with_null: bool, pairs: Sequence[SitePair]
) -> Iterator[tuple[SitePair, Result]]:
    """Evaluate a sample measure pair by pair; each side is prepared once."""
    for pair in pairs:
        note = too_few(measure, x, pair[0])
        try:
            yield pair, failed(measure, x, pair[0], note) if note else _compared(measure, x, y, with_null, pair)
        except (ValueError, RuntimeError) as error:
            yield pair, failed(measure, x, pair[0], f"{measure.label} at {site_name(*pair)}: {error}")


def _compared(measure: SampleMeasure, x: Side, y: Side, with_null: bool, pair: SitePair) -> Result:
    """Evaluate a sample measure at one pair of sites."""
    first, second, subset = prepared_pair(measure, x, y, pair)
    units = x.units[subset.sequence].to(x.samples[pair[0]].device)

    def estimated(rearranged: Any) -> tuple[float, Tensor]:
        value, influence = measure.estimate(rearranged, second, units)
        return value.item(), torch.nn.functional.pad(influence, (0, x.n_units - len(influence))).cpu()

    value, influence = estimated(first)
    null, null_influence, share, note = math.nan, torch.full_like(influence, math.nan), 0.0, ""
    order = subset.order(x.lengths.circle) if with_null else None
    if order is not None:
        null, null_influence = estimated(measure.rearrange(first, order.to(units.device)))
        share = 0.0 if x.lengths.circle is None else broken(subset.sequence, order)
    elif with_null:
        note = without_null(measure, subset.most, len(units))
    result = outcome(measure, x, pair, value, influence, null, null_influence, share)
    return {**result, "note": result["note"] or note}


def prepared_pair(measure: SampleMeasure, x: Side, y: Side, pair: SitePair) -> tuple[Any, Any, SampledSubset]:
    """Return both prepared sides of a sample measure at a pair of sites, and the samples that it reads."""
    subset = x.subset(pair[0], measure.max_samples, measure.seed)
    first, second = (prepared_samples(measure, side, site, subset) for side, site in ((x, pair[0]), (y, pair[1])))
    return first, second, subset


def prepared_samples(measure: SampleMeasure, side: Side, site: str, subset: SampledSubset, *which: str) -> Any:
    """Return some samples of a site as a measure reads them, computed once per side.

    Args:
        measure: the measure.
        side: the side.
        site: the site.
        subset: the samples.
        which: a name for them, unless they are those of the value.
    """
    key = (measure.label, site, *which)
    if key not in side.prepared:
        samples = side.samples[site]
        samples = samples[subset.index.to(samples.device)]
        side.prepared[key] = (
            measure.prepare(samples) if subset.most == 1 else measure.prepare_sequences(samples, subset.sequence)
        )
    return side.prepared[key]
