"""Numbers of the study `scaling`: sizes compared with seeds, growth with the ratio of sizes, regions of layers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa
from scipy.stats import false_discovery_control

from dissimilarity.tables.curves import distinct
from studies.common.jackknife import LEVEL, Interval
from studies.common.regions import REGIONS, explained, regions, walk_shares
from studies.scaling.cells import SCALES, Cells, cells_of, mean_maps, mean_null, mean_over
from studies.scaling.left_out import LeftOut, excess_of, interval_of, over_pairs, rank_correlation, slope, without_each
from studies.scaling.sizes import (
    KINDS,
    Between,
    SizedModel,
    SizePair,
    by_size,
    compared_sizes,
    needs_same_data_order,
    same_data_order,
)


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        sizes: name -> its models, smaller sizes first.
        controls, measures: those of the table, the primary measure first.
        region: what is averaged for the primary answer: `all` layers, or a region.
        sites: model -> its sites.
        maps: (control, measure, size, size) -> mean (layers, layers) dissimilarity over pairs of models; a size is
            compared with itself over models with themselves.
        floors: (control, measure, size) -> the same over the seeds of one size.
        null: (control, measure) -> mean dissimilarity of the null.
        blocks: size -> region -> its layers.
        shares: size -> share of the scatter that the blocks explain.
        walks: size -> the same for random walks of as many layers: their median and 95th percentile.
        between: every two sizes, and the seeds of each.
        above: pairs of sizes with an excess above 0 by the primary measure, by Benjamini and Hochberg over all pairs.
        growth: (control, measure, scale, kind) -> excess per doubling of the blocks' parameters.
        with_ratio, with_loss: (control, measure) -> rank correlation over pairs of sizes between the excess and the
            doublings, or the gap between the losses.
        same_data_order: whether pairs of models that read their text in the same order had to count.
    """

    sizes: dict[str, list[SizedModel]]
    controls: list[str]
    measures: list[str]
    region: str
    sites: dict[str, list[str]]
    maps: dict[tuple[str, str, str, str], np.ndarray]
    floors: dict[tuple[str, str, str], np.ndarray]
    null: dict[tuple[str, str], float]
    blocks: dict[str, dict[str, range]]
    shares: dict[str, float]
    walks: dict[str, tuple[float, float]]
    between: list[Between]
    above: list[SizePair]
    growth: dict[tuple[str, ...], Interval]
    with_ratio: dict[tuple[str, str], float]
    with_loss: dict[tuple[str, str], float]
    same_data_order: bool


@dataclass(frozen=True)
class _Sample:
    """The inputs of the intervals: models of each size, which of them are there, and the pairs of sizes.

    Attributes:
        sizes: name -> its models.
        present: from `without_each`.
        between: two sizes -> their comparison, which `_fill` completes.
        regions: model -> region -> its layers.
        same_data_order: whether models that read their text in the same order count as pairs.
    """

    sizes: dict[str, list[SizedModel]]
    present: dict[str, np.ndarray]
    between: dict[SizePair, Between]
    regions: dict[str, dict[str, range]]
    same_data_order: bool

    def interval(self, values: np.ndarray, pairs: Sequence[SizePair]) -> Interval:
        """Return the interval of a value that depends on these pairs of sizes."""
        return interval_of(values, [name for pair in pairs for name in pair], self.present)


def findings(table: pa.Table, models: Sequence[SizedModel], primary: str, region: str = "all") -> Findings:
    """Compute all numbers.

    Args:
        table: table from `compare_many` over every two models and each with itself, with `control` as first column.
        models: smaller models first.
        primary: label of the primary measure, which comes first.
        region: as in `Findings`.
    """
    sizes, cells = by_size(models), cells_of(table)
    controls = distinct(table, "control")
    measures = [measure for measure in distinct(table, "measure") if any(key[1] == measure for key in cells)]
    measures.sort(key=lambda measure: measure != primary)
    maps, floors = mean_maps(cells, sizes)
    similarity = {name: np.nan_to_num(1 - maps[controls[0], measures[0], name, name]) for name in sizes}
    blocks = {name: regions(similarity[name]) for name in sizes}
    sample = _Sample(
        sizes=sizes,
        present=without_each({name: len(members) for name, members in sizes.items()}),
        between=compared_sizes(sizes),
        regions={model.label: blocks[name] for name, members in sizes.items() for model in members},
        same_data_order=needs_same_data_order(sizes),
    )
    growth: dict[tuple[str, ...], Interval] = {}
    correlations: dict[tuple[str, str], tuple[float, float]] = {}
    for control in controls:
        for measure in measures:
            for scale in SCALES:
                excess = _fill(sample, cells, (control, measure, scale), region)
                for kind in KINDS:
                    doublings = _doublings(sample, kind)
                    pairs = [pair for pair in excess if pair in doublings]
                    growth[control, measure, scale, kind] = sample.interval(slope(excess, doublings), pairs)
                if scale == "dissimilarity":
                    correlations[control, measure] = _correlations(sample, excess)
    return Findings(
        sizes=sizes,
        controls=controls,
        measures=measures,
        sites={a: list(cell["sites_a"]) for (_, _, a, b), cell in cells.items() if a == b},
        maps=maps,
        floors=floors,
        null={(c, m): mean_null(cells, c, m) for c in controls for m in measures},
        blocks=blocks,
        region=region,
        shares={name: explained(similarity[name], list(blocks[name].values())) for name in sizes},
        walks={name: of_walks(len(similarity[name])) for name in sizes},
        between=list(sample.between.values()),
        above=_above(sample.between, (controls[0], measures[0], "dissimilarity", region)),
        growth=growth,
        with_ratio={key: ratio for key, (ratio, _) in correlations.items()},
        with_loss={key: loss for key, (_, loss) in correlations.items()},
        same_data_order=sample.same_data_order,
    )


def _fill(sample: _Sample, cells: Cells, reading: tuple[str, str, str], primary_region: str) -> LeftOut:
    """Add values and excess of one (control, measure, scale) to every comparison; return the excess over one region."""
    control, measure, scale = reading
    couples = {(a, b): cell for (c, m, a, b), cell in cells.items() if (c, m) == (control, measure) and a != b}
    chosen: LeftOut = {}
    for region in ("all", *REGIONS):
        means = {couple: mean_over(cell, scale, region, couple, sample.regions) for couple, cell in couples.items()}
        values = over_sizes(means, sample.sizes, sample.present, sample.same_data_order)
        excess = excess_of(values)
        for pair, between in sample.between.items():
            between.values[*reading, region] = sample.interval(values[pair], [pair])
            if pair in excess:
                between.excess[*reading, region] = sample.interval(excess[pair], [pair])
        if region == primary_region:
            chosen = excess
    return chosen


def _above(between: Mapping[SizePair, Between], key: tuple[str, ...]) -> list[SizePair]:
    """Return the pairs of sizes whose excess is above 0, with the false discovery rate over pairs at the level."""
    excess = {pair: two.excess[key] for pair, two in between.items() if key in two.excess}
    tested = {pair: interval for pair, interval in excess.items() if math.isfinite(interval.p)}
    if not tested:
        return []
    p_values = false_discovery_control([interval.p for interval in tested.values()])
    return [
        pair for (pair, interval), p in zip(tested.items(), p_values, strict=True) if p < LEVEL and interval.mean > 0
    ]


@cache
def of_walks(layers: int) -> tuple[float, float]:
    """Return the median and the 95th percentile of the share that a cut explains in random walks."""
    median, high = np.percentile(walk_shares(layers), (50, 95))
    return float(median), float(high)


def _doublings(sample: _Sample, kind: str) -> dict[SizePair, float]:
    return {pair: between.doublings for pair, between in sample.between.items() if between.kind == kind}


def _correlations(sample: _Sample, excess: LeftOut) -> tuple[float, float]:
    """Return the rank correlations of the excess with the ratio of sizes and with the gap between the losses."""
    losses = {name: np.mean([model.loss for model in members]) for name, members in sample.sizes.items()}
    values = {pair: float(value[0]) for pair, value in excess.items()}
    ratios = {pair: sample.between[pair].doublings for pair in values}
    gaps = {(first, second): float(abs(losses[first] - losses[second])) for first, second in values}
    return rank_correlation(values, ratios), rank_correlation(values, gaps)


def over_sizes(
    values: Mapping[tuple[str, str], float],
    sizes: Mapping[str, Sequence[SizedModel]],
    present: Mapping[str, np.ndarray],
    with_same_data_order: bool = False,
) -> LeftOut:
    """Return the mean over pairs of models of every two sizes, and of the seeds of each, without each model in turn.

    Args:
        values: two models, in either order -> their value.
        sizes: the models of each size.
        present: from `without_each`.
        with_same_data_order: whether two models of the same data order count as a pair.
    """
    means = {}
    for first, second in combinations_with_replacement(sizes, 2):
        matrix = np.full((len(sizes[first]), len(sizes[second])), np.nan)
        for i, a in enumerate(sizes[first]):
            for j, b in enumerate(sizes[second]):
                if a.label != b.label and (with_same_data_order or not same_data_order(a, b)):
                    matrix[i, j] = values.get((a.label, b.label), values.get((b.label, a.label), math.nan))
        means[first, second] = over_pairs(matrix, present[first], present[second])
    return means
