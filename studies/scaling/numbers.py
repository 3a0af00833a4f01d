"""Numbers of the study `scaling`: sizes compared with seeds, growth with the ratio of sizes, regions of layers."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa

from dissimilarity.tables.curves import distinct
from studies.common.regions import REGIONS, explained, regions
from studies.common.resampling import draws_with_a_pair
from studies.scaling.cells import SCALES, Cells, cells_of, mean_maps, mean_null, mean_over
from studies.scaling.resampled import (
    RESAMPLES,
    Interval,
    Resampled,
    excess_of,
    interval_of,
    rank_correlations,
    slope,
)
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
        controls, measures: those of the table.
        sites: model -> its sites.
        maps: (control, measure, size, size) -> mean (layers, layers) dissimilarity over pairs of models; a size is
            compared with itself over models with themselves.
        floors: (control, measure, size) -> the same over the seeds of one size.
        null: (control, measure) -> mean dissimilarity of the null.
        blocks: size -> region -> its layers.
        shares: size -> share of the scatter that the blocks explain.
        between: every two sizes, and the seeds of each.
        growth: (control, measure, scale, kind) -> excess per doubling of the blocks' parameters.
        with_ratio, with_loss: (control, measure) -> rank correlation over pairs of sizes between the dissimilarity and
            the doublings, or the gap between the losses.
        same_data_order: whether pairs of models that read their text in the same order had to count.
    """

    sizes: dict[str, list[SizedModel]]
    controls: list[str]
    measures: list[str]
    sites: dict[str, list[str]]
    maps: dict[tuple[str, str, str, str], np.ndarray]
    floors: dict[tuple[str, str, str], np.ndarray]
    null: dict[tuple[str, str], float]
    blocks: dict[str, dict[str, range]]
    shares: dict[str, float]
    between: list[Between]
    growth: dict[tuple[str, ...], Interval]
    with_ratio: dict[tuple[str, str], Interval]
    with_loss: dict[tuple[str, str], Interval]
    same_data_order: bool


@dataclass(frozen=True)
class _Sample:
    """The inputs of the intervals: models of each size, the draws of them, and the pairs of sizes.

    Attributes:
        sizes: name -> its models.
        draws: size -> (1 + resamples, models), from `draws_with_a_pair`.
        between: two sizes -> their comparison, which `_fill` completes.
        regions: model -> region -> its layers.
        same_data_order: whether models that read their text in the same order count as pairs.
    """

    sizes: dict[str, list[SizedModel]]
    draws: dict[str, np.ndarray]
    between: dict[SizePair, Between]
    regions: dict[str, dict[str, range]]
    same_data_order: bool

    def losses(self) -> dict[str, np.ndarray]:
        """Return the mean loss of each size for each draw."""
        losses = {name: np.array([model.loss for model in members]) for name, members in self.sizes.items()}
        return {name: values[self.draws[name]].mean(1) for name, values in losses.items()}


def findings(table: pa.Table, models: Sequence[SizedModel]) -> Findings:
    """Compute all numbers.

    Args:
        table: table from `compare_many` over every two models and each with itself, with `control` as first column.
        models: smaller models first.
    """
    sizes, cells = by_size(models), cells_of(table)
    controls = distinct(table, "control")
    measures = [measure for measure in distinct(table, "measure") if any(key[1] == measure for key in cells)]
    maps, floors = mean_maps(cells, sizes)
    similarity = {name: np.nan_to_num(1 - maps[controls[0], measures[0], name, name]) for name in sizes}
    blocks = {name: regions(similarity[name]) for name in sizes}
    rng = np.random.default_rng(0)
    sample = _Sample(
        sizes=sizes,
        draws={name: draws_with_a_pair(rng, len(members), RESAMPLES) for name, members in sizes.items()},
        between=compared_sizes(sizes),
        regions={model.label: blocks[name] for name, members in sizes.items() for model in members},
        same_data_order=needs_same_data_order(sizes),
    )
    growth: dict[tuple[str, ...], Interval] = {}
    correlations: dict[tuple[str, str], tuple[Interval, Interval]] = {}
    for control in controls:
        for measure in measures:
            for scale in SCALES:
                values, excess = _fill(sample, cells, (control, measure, scale))
                for kind in KINDS:
                    growth[control, measure, scale, kind] = interval_of(slope(excess, _doublings(sample, kind)))
                if scale == "dissimilarity":
                    correlations[control, measure] = _correlations(sample, values)
    return Findings(
        sizes=sizes,
        controls=controls,
        measures=measures,
        sites={a: list(cell["sites_a"]) for (_, _, a, b), cell in cells.items() if a == b},
        maps=maps,
        floors=floors,
        null={(c, m): mean_null(cells, c, m) for c in controls for m in measures},
        blocks=blocks,
        shares={name: explained(similarity[name], list(blocks[name].values())) for name in sizes},
        between=list(sample.between.values()),
        growth=growth,
        with_ratio={key: ratio for key, (ratio, _) in correlations.items()},
        with_loss={key: loss for key, (_, loss) in correlations.items()},
        same_data_order=sample.same_data_order,
    )


def _fill(sample: _Sample, cells: Cells, reading: tuple[str, str, str]) -> tuple[Resampled, Resampled]:
    """Add values and excess of one (control, measure, scale) to every comparison; return those over all layers."""
    control, measure, scale = reading
    couples = {(a, b): cell for (c, m, a, b), cell in cells.items() if (c, m) == (control, measure) and a != b}
    over_all: tuple[Resampled, Resampled] = {}, {}
    for region in ("all", *REGIONS):
        means = {couple: mean_over(cell, scale, region, couple, sample.regions) for couple, cell in couples.items()}
        values = over_draws(means, sample.sizes, sample.draws, sample.same_data_order)
        excess = excess_of(values)
        for pair, between in sample.between.items():
            between.values[*reading, region] = interval_of(values[pair])
            if pair in excess:
                between.excess[*reading, region] = interval_of(excess[pair])
        if region == "all":
            over_all = values, excess
    return over_all


def _doublings(sample: _Sample, kind: str) -> dict[SizePair, float]:
    return {pair: between.doublings for pair, between in sample.between.items() if between.kind == kind}


def _correlations(sample: _Sample, values: Resampled) -> tuple[Interval, Interval]:
    """Return the rank correlations of the values with the ratio of sizes and with the gap between the losses."""
    losses = sample.losses()
    values = {pair: resampled for pair, resampled in values.items() if pair[0] != pair[1]}
    ratios = {pair: np.full(1 + RESAMPLES, sample.between[pair].doublings) for pair in values}
    gaps = {(first, second): np.abs(losses[first] - losses[second]) for first, second in values}
    return interval_of(rank_correlations(values, ratios)), interval_of(rank_correlations(values, gaps))


def over_draws(
    values: Mapping[tuple[str, str], float],
    sizes: Mapping[str, Sequence[SizedModel]],
    draws: Mapping[str, np.ndarray],
    with_same_data_order: bool = False,
) -> Resampled:
    """Return the mean over pairs of models of every two sizes, and of the seeds of each, for each draw of models.

    Models are drawn rather than pairs, because pairs that share a model are not independent. A model that is drawn
    twice does not form a pair with itself.

    Args:
        values: two models, in either order -> their value.
        sizes: the models of each size.
        draws: size -> (1 + resamples, models), positions among its models; the first row is all of them.
        with_same_data_order: whether two models of the same data order count as a pair.

    Returns:
        (size, size) -> (1 + resamples,), NaN for draws without a pair.
    """
    means = {}
    for first, second in combinations_with_replacement(sizes, 2):
        matrix = np.full((len(sizes[first]), len(sizes[second])), np.nan)
        for i, a in enumerate(sizes[first]):
            for j, b in enumerate(sizes[second]):
                if a.label != b.label and (with_same_data_order or not same_data_order(a, b)):
                    matrix[i, j] = values.get((a.label, b.label), values.get((b.label, a.label), math.nan))
        drawn = matrix[draws[first][:, :, None], draws[second][:, None, :]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # draws without a pair
            means[first, second] = np.nanmean(drawn, (1, 2))
    return means
