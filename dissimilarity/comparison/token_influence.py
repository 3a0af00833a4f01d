"""Which text differs: the influence of every sample on the dissimilarity at a pair of sites."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.plan import Plan
from dissimilarity.inference.jackknife import estimate_weighted
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross
from dissimilarity.moments.pair import join
from dissimilarity.moments.paired_samples import PairedSamples
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.sampling import sampled_positions

COLUMNS = ("token_influence", "token_index")
"""Influence of each sample, and its place in the tokens of the first model, ``tokens.flatten()``."""


def with_token_influence(
    records: list[dict[str, Any]], measures: Sequence[Measure], x: ModelActivations, y: ModelActivations, cross: Cross
) -> list[dict[str, Any]]:
    """Return records with the influence of each sample on the dissimilarity.

    Args:
        records: records of ``evaluate``.
        measures: their measures.
        x: activations of the first model, with their sums.
        y: activations of the second model.
        cross: the sums of the pairs.
    """
    by_label = {measure.label: measure for measure in measures}
    grid, output_grid = (token_grid(x.plan, positions) for positions in (x.plan.probe.positions, None))
    for record in records:
        measure, pair = by_label[record["measure"]], (record["site_a"], record["site_b"])
        influence, index = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        if record["value"] == record["value"]:
            if isinstance(measure, MomentMeasure):
                influence = _of_moments(measure, x, y, cross, pair)
                index = _index(grid, len(influence))
            else:
                assert isinstance(measure, SampleMeasure)
                influence, index = _of_samples(measure, x, y, pair, output_grid if pair == (LOGITS, LOGITS) else grid)
        sign = -1 if measure.higher_is_more_similar else 1
        record |= dict(zip(COLUMNS, ((sign * influence).tolist(), index.tolist()), strict=True))
    return records


def _of_moments(
    measure: MomentMeasure, x: ModelActivations, y: ModelActivations, cross: Cross, pair: tuple[str, str]
) -> Float[Tensor, " samples"]:
    site, partner = pair
    counts, first, second = x.side.counts()[0], x.side.totals(site), y.side.totals(partner)
    n, first, second = ({key: value[None] for key, value in sums.items()} for sums in (counts, first, second))
    totals = join(n, first, second, cross.sums_of(site, [partner])[0])
    samples = PairedSamples(x.at, y.at, site, [partner])
    return measure.sample_influence(totals, samples)[:, 0].cpu()


def _of_samples(
    measure: SampleMeasure,
    x: ModelActivations,
    y: ModelActivations,
    pair: tuple[str, str],
    grid: list[Int[Tensor, " _"]],
) -> tuple[Float[Tensor, " samples"], Int[Tensor, " samples"]]:
    """Return the influences and places of the samples that a measure reads, in order."""
    subset = x.side.subset(pair[0], measure.max_samples, measure.seed)
    first, second = (side.prepared[measure.label, site] for side, site in zip((x.side, y.side), pair, strict=True))
    unit = torch.arange(len(subset.index), device=x.side.samples[pair[0]].device)
    _, influence = estimate_weighted(lambda weight: measure.between(first, second, weight), unit)
    if pair[0] in x.side.varying:
        index = torch.cat(grid)[x.side.lengths.drawn[subset.index]]
    elif x.plan.probe.pool != "none":  # a sequence stands at its first place
        index = torch.stack([places[0] for places in grid])[subset.sequence]
    else:
        count, held = len(grid), len(x.side.samples[pair[0]]) // len(grid)
        positions = sampled_positions(count, len(grid[0]), held * count)
        index = torch.stack(grid)[subset.sequence, positions[subset.index % held]]
    order = index.argsort(stable=True)
    return influence.cpu()[order], index[order]


def token_grid(plan: Plan, positions: int | None) -> list[Int[Tensor, " _"]]:
    """Return for each sequence the places of the positions that count, in the tokens of the first model.

    Args:
        plan: how the probe set is read.
        positions: how many of the positions are used; None for all.
    """
    sequences, probe = plan.probe.extent.sequences, plan.probe
    if isinstance(probe.inputs, Alignment):
        reading = probe.inputs.a
        places = torch.arange(len(reading))[:, None] * reading.tokens.shape[1] + reading.last
        return list(plan.probe.select_positions(places[..., None].double(), slice(None))[0][..., 0].long())
    length = probe.mask.shape[1] if probe.mask is not None else _length(plan)
    places = torch.arange(sequences * length).view(sequences, length, 1).double()
    places, real = probe.select_positions(places, slice(None))
    rows = places[..., 0].long()
    if real is not None:
        return [row[keep] for row, keep in zip(rows, real, strict=True)]
    if positions is not None and positions < rows.shape[1]:
        rows = rows[:, sampled_positions(sequences, rows.shape[1], positions * sequences)]
    return list(rows)


def _length(plan: Plan) -> int:
    inputs = plan.probe.inputs
    if isinstance(inputs, Tensor) and inputs.ndim == 2 and not inputs.is_floating_point():
        return inputs.shape[1]
    return plan.probe.extent.length


def _index(grid: list[Int[Tensor, " _"]], samples: int) -> Int[Tensor, " samples"]:
    """Return the place of each sample; that of the first position where each sequence is one sample."""
    index = torch.cat(grid)
    return index if len(index) == samples else torch.stack([places[0] for places in grid])
