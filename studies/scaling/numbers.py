"""What follows from the table of the study `scaling`: sizes against seeds, growth with the ratio of sizes, regions."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from dissimilarity.capture.sites import LOGITS, matched_pairs
from dissimilarity.tables.curves import distinct
from studies.common.regions import REGIONS, explained, regions

RESAMPLES = 2000
KINDS = ("width", "depth", "both")
SCALES = {"dissimilarity": "dissimilarity", "far": "1 - calibrated"}
"""Readings of a pair of layers: the measure's, and 1 - calibrated (0 = same, 1 = as far as the null)."""

Pair = tuple[str, str]
Samples = dict[Pair, np.ndarray]
"""Two sizes -> the value, and after it those of the resamples."""


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        label: its name in the table.
        family: what is the same in models that differ in size.
        width, depth: of the stream, and the number of sites.
        order: the seed of the order of its text, None where that is not known.
        loss, stderr: on the held-out text, nats per token.
    """

    label: str
    family: str
    width: int
    depth: int
    order: int | None
    loss: float
    stderr: float

    @property
    def parameters(self) -> int:
        """Of the blocks, about: 12 depth width^2."""
        return 12 * self.depth * self.width**2


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval; NaN where there is none."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    @property
    def verdict(self) -> str:
        """`above`, `below` where the interval leaves 0 on one side, else `open`."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "open"


@dataclass(frozen=True)
class Between:
    """Two sizes, or the seeds of one.

    Attributes:
        sizes: their names, the smaller first.
        kind: `seed`, `width`, `depth` or `both`: in what they differ.
        doublings: log2 of the ratio of the blocks' parameters.
        values: (control, measure, scale, region) -> mean over pairs of models; region `all` is all matched layers.
        excess: the same, less the mean over the seeds of the two sizes.
    """

    sizes: Pair
    kind: str
    doublings: float
    values: dict[tuple[str, ...], Interval] = field(default_factory=dict)
    excess: dict[tuple[str, ...], Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Everything that the summary and the figures show.

    Attributes:
        sizes: name -> its models, the smaller sizes first.
        controls, measures: as the table has them.
        sites: model -> its sites.
        maps: (control, measure, size, size) -> mean over pairs of models (layers, layers) of the dissimilarity; a size
            with itself: models with themselves.
        floors: (control, measure, size) -> the same between the seeds of one size.
        null: (control, measure) -> mean dissimilarity of the null.
        blocks: size -> region -> its layers; shares: size -> share of the scatter that they explain.
        between: every two sizes, and the seeds of each.
        growth: (control, measure, scale, kind) -> excess for each doubling of the blocks' parameters.
        with_ratio, with_loss: (control, measure) -> rank correlation over pairs of sizes of the dissimilarity with
            the doublings, and with the gap between the losses.
        akin: whether pairs of models that read their text in one order had to count.
    """

    sizes: dict[str, list[Model]]
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
    akin: bool


def findings(table: pa.Table, models: Sequence[Model]) -> Findings:
    """All numbers.

    Args:
        table: of `compare_many` over every two models and each with itself, `control` in front.
        models: the smaller ones first.
    """
    sizes = by_size(models)
    cells = _cells(table)
    controls = distinct(table, "control")
    measures = [m for m in distinct(table, "measure") if any(key[1] == m for key in cells)]
    sites = {a: list(each["sites_a"]) for (_, _, a, b), each in cells.items() if a == b}
    maps, floors = _maps(cells, sizes, controls, measures)
    first = controls[0], measures[0]
    alike = {name: np.nan_to_num(1 - maps[(*first, name, name)]) for name in sizes}
    blocks = {name: regions(alike[name]) for name in sizes}
    shares = {name: explained(alike[name], list(blocks[name].values())) for name in sizes}
    region_of = {model.label: blocks[name] for name, members in sizes.items() for model in members}
    akin = _only_akin(sizes)
    draws = _draws(sizes)
    losses = {name: np.array([model.loss for model in members])[draws[name]].mean(1) for name, members in sizes.items()}
    between = {pair: _between(sizes, pair) for pair in combinations_with_replacement(sizes, 2)}
    growth, with_ratio, with_loss = {}, {}, {}
    for control in controls:
        for measure in measures:
            chosen = {(a, b): each for (c, m, a, b), each in cells.items() if (c, m) == (control, measure) and a != b}
            for scale in SCALES:
                for region in ("all", *REGIONS):
                    key = (control, measure, scale, region)
                    values = {
                        couple: _mean_over(each, scale, region, couple, region_of) for couple, each in chosen.items()
                    }
                    samples = by_sizes(values, sizes, draws, akin)
                    excess = excess_of(samples)
                    for pair, one in between.items():
                        one.values[key] = interval(samples[pair])
                        if pair in excess:
                            one.excess[key] = interval(excess[pair])
                    if region != "all":
                        continue
                    for kind in KINDS:
                        growth[control, measure, scale, kind] = interval(_slope(excess, between, kind))
                    if scale == "dissimilarity":
                        apart = {pair: each for pair, each in samples.items() if pair[0] != pair[1]}
                        ratios = {pair: np.full(1 + RESAMPLES, between[pair].doublings) for pair in apart}
                        gaps = {(s, t): np.abs(losses[s] - losses[t]) for s, t in apart}
                        with_ratio[control, measure] = interval(_ranks(apart, ratios))
                        with_loss[control, measure] = interval(_ranks(apart, gaps))
    null = {key: _null(cells, *key) for key in ((c, m) for c in controls for m in measures)}
    return Findings(
        sizes=sizes,
        controls=controls,
        measures=measures,
        sites=sites,
        maps=maps,
        floors=floors,
        null=null,
        blocks=blocks,
        shares=shares,
        between=list(between.values()),
        growth=growth,
        with_ratio=with_ratio,
        with_loss=with_loss,
        akin=akin,
    )


def by_size(models: Sequence[Model]) -> dict[str, list[Model]]:
    """The models of each size, named by width and depth, and by family where there are several."""
    several = len({model.family for model in models}) > 1
    found: dict[str, list[Model]] = {}
    for model in sorted(models, key=lambda model: (model.parameters, model.depth)):
        name = f"w{model.width} d{model.depth}"
        found.setdefault(f"{model.family} {name}" if several else name, []).append(model)
    return found


def by_sizes(
    values: Mapping[Pair, float],
    sizes: Mapping[str, Sequence[Model]],
    draws: Mapping[str, np.ndarray],
    akin: bool = False,
) -> Samples:
    """The mean over pairs of models of every two sizes, and of the seeds of each, for each draw of models.

    Models are drawn, not pairs: pairs that share a model are not independent. A model drawn twice is not met by itself.

    Args:
        values: two models, in either order -> their value.
        sizes: the models of each size.
        draws: size -> (1 + resamples, models) which of its models; the first line is all of them.
        akin: whether models of two sizes that read their text in one order count as a pair.

    Returns:
        (size, size) -> (1 + resamples,), NaN where a draw has no pair.
    """
    found = {}
    for first, second in combinations_with_replacement(sizes, 2):
        matrix = np.full((len(sizes[first]), len(sizes[second])), np.nan)
        for i, a in enumerate(sizes[first]):
            for j, b in enumerate(sizes[second]):
                if a.label != b.label and (akin or not _are_akin(a, b)):
                    matrix[i, j] = values.get((a.label, b.label), values.get((b.label, a.label), math.nan))
        drawn = matrix[draws[first][:, :, None], draws[second][:, None, :]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # draws without a pair
            found[first, second] = np.nanmean(drawn, (1, 2))
    return found


def excess_of(samples: Samples) -> Samples:
    """What two sizes differ by more than the seeds of each: less the mean of the two floors, or the one there is."""
    found = {}
    for (first, second), values in samples.items():
        floors = np.stack([samples[first, first], samples[second, second]])
        known = floors[np.isfinite(floors[:, 0])]
        if first != second and len(known):
            found[first, second] = values - known.mean(0)
    return found


def interval(samples: np.ndarray) -> Interval:
    """The value, with the middle 95 % of the resamples that have one; without interval where they are all one."""
    resampled = samples[1:][np.isfinite(samples[1:])]
    if len(resampled) < len(samples) / 2 or np.ptp(resampled) == 0:
        return Interval(float(samples[0]))
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(float(samples[0]), float(low), float(high))


def _draws(sizes: Mapping[str, Sequence[Model]]) -> dict[str, np.ndarray]:
    """Which models of each size are drawn, with replacement; the first line is every one once.

    A draw of one model alone, out of several, has no pair for the floor and is drawn again.
    """
    rng, found = np.random.default_rng(0), {}
    for name, members in sizes.items():
        count = len(members)
        drawn = rng.integers(count, size=(RESAMPLES, count))
        while count > 1 and len(alone := np.nonzero(np.ptp(drawn, axis=1) == 0)[0]):
            drawn[alone] = rng.integers(count, size=(len(alone), count))
        found[name] = np.concatenate([np.arange(count)[None], drawn])
    return found


def _are_akin(a: Model, b: Model) -> bool:
    return a.order is not None and a.order == b.order


def _only_akin(sizes: Mapping[str, Sequence[Model]]) -> bool:
    """Whether two sizes have no pair of models that read their text in different order, so that others must do."""
    return any(
        all(_are_akin(a, b) for a in sizes[first] for b in sizes[second])
        for first, second in combinations_with_replacement(sizes, 2)
        if first != second
    )


def _between(sizes: Mapping[str, Sequence[Model]], pair: Pair) -> Between:
    (a, *_), (b, *_) = (sizes[name] for name in pair)
    if pair[0] == pair[1]:
        return Between(pair, "seed", 0.0)
    kind = "width" if a.depth == b.depth else "depth" if a.width == b.width else "both"
    return Between(pair, kind, abs(math.log2(b.parameters / a.parameters)))


def _slope(excess: Samples, between: Mapping[Pair, Between], kind: str) -> np.ndarray:
    """Least squares through 0 of the excess on the doublings, over the pairs of sizes of a kind."""
    chosen = [pair for pair in excess if between[pair].kind == kind]
    if not chosen:
        return np.full(1 + RESAMPLES, np.nan)
    x = np.array([between[pair].doublings for pair in chosen])[:, None]
    y = np.stack([excess[pair] for pair in chosen])
    square = (x * x).sum()
    return (x * y).sum(0) / square if square else np.full(1 + RESAMPLES, np.nan)


def _ranks(values: Samples, others: Samples) -> np.ndarray:
    """Spearman's correlation over pairs of sizes; NaN for fewer than four."""
    if len(values) < 4:
        return np.full(1 + RESAMPLES, np.nan)
    x, y = (stats.rankdata(np.stack([of[pair] for pair in values]), axis=0) for of in (values, others))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _cells(table: pa.Table) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """(control, measure, model_a, model_b) -> its sites and, in layers, dissimilarity, far and null."""
    rows: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["site_a"] != LOGITS:
            rows.setdefault((row["control"], row["measure"], row["model_a"], row["model_b"]), []).append(row)
    found = {}
    for key, of in rows.items():
        sites_a, sites_b = (list(dict.fromkeys(row[side] for row in of)) for side in ("site_a", "site_b"))
        grids = {name: np.full((len(sites_a), len(sites_b)), np.nan) for name in ("dissimilarity", "far", "null")}
        for row in of:
            place = sites_a.index(row["site_a"]), sites_b.index(row["site_b"])
            grids["dissimilarity"][place] = row["dissimilarity"]
            grids["far"][place] = 1 - row["calibrated"]
            # Every measure's dissimilarity is its value turned or shifted.
            turned = row["dissimilarity"] / (1 - row["calibrated"]) if row["calibrated"] != 1 else math.nan
            grids["null"][place] = turned
        matched = [(sites_a.index(a), sites_b.index(b)) for a, b in matched_pairs(sites_a, sites_b)]
        found[key] = {"sites_a": sites_a, "sites_b": sites_b, "matched": matched, **grids}
    return found


def _mean_over(
    cell: Mapping[str, Any], scale: str, region: str, couple: Pair, region_of: Mapping[str, Mapping[str, range]]
) -> float:
    """Mean over matched layers, or over a region of the one with the same region of the other."""
    values = cell[scale]
    if region == "all":
        return float(np.mean([values[place] for place in cell["matched"]]))
    layers = [region_of[label].get(region) for label in couple]
    if layers[0] is None or layers[1] is None:
        return math.nan
    return float(values[layers[0].start : layers[0].stop, layers[1].start : layers[1].stop].mean())


def _maps(
    cells: Mapping[tuple[str, str, str, str], Mapping[str, Any]],
    sizes: Mapping[str, Sequence[Model]],
    controls: Sequence[str],
    measures: Sequence[str],
) -> tuple[dict[tuple[str, str, str, str], np.ndarray], dict[tuple[str, str, str], np.ndarray]]:
    """Mean heat maps over the pairs of models of every two sizes, and over those of the seeds of each."""
    size_of = {model.label: name for name, members in sizes.items() for model in members}
    gathered: dict[tuple[str, ...], list[np.ndarray]] = {}
    order = list(sizes)
    for (control, measure, a, b), cell in cells.items():
        first, second, values = size_of[a], size_of[b], cell["dissimilarity"]
        if order.index(first) > order.index(second):
            first, second, values = second, first, values.T
        gathered.setdefault((control, measure, first, second, "self" if a == b else "pair"), []).append(values)
        if first == second and a != b:  # neither seed is the first one
            gathered[control, measure, first, second, "pair"].append(values.T)
    maps, floors = {}, {}
    for (control, measure, first, second, which), of in gathered.items():
        mean = np.mean(of, 0)
        if first != second or which == "self":
            maps[control, measure, first, second] = mean
        else:
            floors[control, measure, first] = mean
    return maps, floors


def _null(cells: Mapping[tuple[str, str, str, str], Mapping[str, Any]], control: str, measure: str) -> float:
    """Mean dissimilarity of the null over all pairs of layers of different models."""
    each = [cell["null"].ravel() for (c, m, a, b), cell in cells.items() if (c, m) == (control, measure) and a != b]
    values = np.concatenate(each) if each else np.array([np.nan])
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
