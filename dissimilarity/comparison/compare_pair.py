"""The one loop over the activations of two models: sums over pairs of sites, sums of the null, and their values."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.collinear import rounded, rounded_pairs
from dissimilarity.comparison.estimates import ReadAgain
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.first_component import with_shares
from dissimilarity.comparison.missing import joined, without_null
from dissimilarity.comparison.nulls import rearranged_values
from dissimilarity.comparison.rearranged import Circles, Exchanges, add_circled, circled
from dissimilarity.comparison.token_influence import with_token_influence
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import WhitenedMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.moments.agreement import together
from dissimilarity.moments.chunk import Chunk
from dissimilarity.moments.cross import Cross, SitePair
from dissimilarity.moments.second_pass import Meeting
from dissimilarity.tables.influence import short


def compare_pair(
    x: ModelActivations,
    y: ModelActivations,
    pairs: Sequence[SitePair],
    measures: Sequence[Measure],
    nulls: int = 1,
    first_components: bool = True,
    token_influence: bool = False,
    p_values: bool = True,
) -> list[dict[str, Any]]:
    """Compare two models at pairs of sites.

    Args:
        x: activations of the first model. If they are streamed, this is their only pass.
        y: activations of the second model on the same probe set.
        pairs: (site of x, site of y).
        measures: measures that the plan of x and y covers.
        nulls: number of rearrangements of the null: none (0), one within chunks, or several of all sequences, for
            which the activations must not be streamed.
        first_components: whether records have ``first_pc_a`` and ``first_pc_b``.
        token_influence: whether records have the influence of each sample.
        p_values: whether records have ``exchanged``, from which p values follow: the value and the nulls, or, where
            sequences have unequal lengths, the value in their actual order and in as many exchanges of similar ones.

    Returns:
        records as from ``evaluate``, with the influences as tables have them, and ``probe``, the plan's fingerprint.
    """
    records = _compared(x, y, pairs, measures, nulls, first_components, token_influence, p_values)
    again = rounded_pairs(measures, x.side, y.side, pairs)
    if not again:
        return records
    whitened = [measure for measure in measures if isinstance(measure, WhitenedMeasure)]
    replaced = {(measure.label, pair): measure for measure in whitened for pair in again}
    if isinstance(x.chunks, Iterator) or isinstance(y.chunks, Iterator):
        for record in records:
            pair = record["site_a"], record["site_b"]
            if measure := replaced.get((record["measure"], pair)):
                record["note"] = joined(record["note"], rounded(measure, pair))
        return records
    first, second = (side.in_float64(sites) for side, sites in zip((x, y), zip(*again, strict=True), strict=True))
    precise = _compared(first, second, again, whitened, nulls, first_components, token_influence, p_values)
    by_key = {(record["measure"], (record["site_a"], record["site_b"])): record for record in precise}
    return [by_key.get((record["measure"], (record["site_a"], record["site_b"])), record) for record in records]


def _compared(
    x: ModelActivations,
    y: ModelActivations,
    pairs: Sequence[SitePair],
    measures: Sequence[Measure],
    nulls: int,
    first_components: bool,
    token_influence: bool,
    p_values: bool,
) -> list[dict[str, Any]]:
    """Compare two models from the activations as they are; arguments of `compare_pair`."""
    plan, sync = x.plan, x.side.sync
    n_units = 0 if plan.stored else plan.n_units
    cross, null = (Cross(pairs, n_units, sync, plan.moments, plan.halves, fast) for fast in (False, True))
    dominated, circle = plan.lengths.dominated, plan.lengths.circle
    asked, nulls = nulls, 0 if dominated else nulls
    with_null = bool(nulls and plan.moments)
    if plan.stored or nulls > 1 or (with_null and circle is not None):
        x.share()
        y.share()
    with together(sync):
        for chunk_x, chunk_y in zip(x, y, strict=True):
            cross.add(chunk_x, chunk_y)
            if with_null and circle is None:
                null.add(chunk_x.deranged(), chunk_y)
    null_x = add_circled(null, x, y, circle) if with_null and circle is not None else None
    cross, null = cross.close(), null.close()
    of_outputs = [measure for measure in measures if isinstance(measure, OutputMeasure)]
    several = rearranged_values(measures, x, y, pairs, Circles(plan.lengths, nulls)) if nulls > 1 else None
    moved = measures if plan.lengths.exchange else of_outputs if plan.lengths.vary else []
    exchanged = {}
    if p_values and nulls > 1 and moved:
        exchanged = rearranged_values(moved, x, y, pairs, Exchanges(plan.lengths, nulls))

    def circled_x(sites: Sequence[str]) -> Iterator[Chunk]:
        """Yield the chunks of x as they meet those of y along the circle of the null."""
        assert circle is not None
        return circled(x, x.of_all(), circle, sites)

    def meetings(sites: Sequence[str], partners: Sequence[str]) -> Iterator[Meeting]:
        """Yield the chunks of both models, and those of x as they meet those of y in the null."""
        around = circled_x(sites) if with_null and circle is not None else None
        for chunk_x, chunk_y in zip(x.of_all(sites), y.of_all(partners), strict=True):
            deranged = chunk_x.deranged() if with_null and circle is None else None
            yield chunk_x, deranged if around is None else next(around), chunk_y

    again = ReadAgain(x.of_all, circled_x, y.of_all, meetings) if plan.stored and plan.n_units > 1 else None
    records = evaluate(measures, x.side, y.side, cross, null if nulls else None, several, again, null_x)
    if token_influence:
        records = with_token_influence(records, measures, x, y, cross)
    for record in records:
        if asked and dominated and not math.isnan(record["value"]):
            measure = next(measure for measure in measures if measure.label == record["measure"])
            record["note"] = joined(record["note"], without_null(measure, dominated, x.side.n))
        if p_values:
            key, actual = (record["measure"], (record["site_a"], record["site_b"])), torch.tensor([record["value"]])
            record["exchanged"] = exchanged.get(key, torch.cat([actual, record["nulls"]]))
        record |= {"influence": short(record["influence"].tolist()), "probe": plan.fingerprint}
    return with_shares(records, x.first_components, y.first_components) if first_components else records
