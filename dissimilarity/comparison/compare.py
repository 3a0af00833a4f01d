"""Compare two models, or saved activations, on one probe set, site by site."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Unpack, get_args

import pyarrow as pa
import torch
from torch import Tensor, nn

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.activations import DiskSpill, ModelActivations, SavedChunks, read_chunks, thinned
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.nulls import with_significance
from dissimilarity.comparison.plan import Plan, is_rotatable, make_plan
from dissimilarity.comparison.result import ComparisonTable, names_of
from dissimilarity.comparison.saved import (
    SavedActivations,
    Source,
    device_of_sources,
    fitted_to_sources,
    open_source,
    sites_of,
)
from dissimilarity.comparison.token_influence import COLUMNS as INFLUENCE_COLUMNS
from dissimilarity.comparison.wide_sites import wide_sites
from dissimilarity.inference.coverage import PROBE_TEXT, SAMPLES
from dissimilarity.measures.base.measure import Measure, as_measures, check_any
from dissimilarity.measures.base.output_measure import across_tokenizers
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.arguments import choice, flag
from dissimilarity.probe.batches import Inputs, slices_of_subset
from dissimilarity.probe.outliers import norms_of
from dissimilarity.probe.probe_set import Extent, ProbeOptions, ProbeSet, Tokens, as_probe_set
from dissimilarity.probe.rearrangement import check_nulls
from dissimilarity.probe.sampling import draw
from dissimilarity.tables.influence import INFLUENCE

Pairs = Literal["all", "matched"]
Records = list[dict[str, Any]]
Opened = tuple[nn.Module | SavedActivations, Inputs | None, list[str]]
"""A source, its inputs, and the sites at which it is compared."""

COLUMNS = (
    "measure",
    "site_a",
    "site_b",
    "value",
    "dissimilarity",
    "stderr",
    "null",
    "null_sd",
    "p",
    "null_best",
    "p_best",
    "calibrated",
    "calibrated_stderr",
    "n_samples",
    "n_units",
    "influence",
    "probe",
    "first_pc_a",
    "first_pc_b",
    "note",
)


def compare(
    a: Source,
    b: Source,
    tokens: Tokens = None,
    sites: str | Sequence[str] | None = None,
    measures: Measure | Sequence[Measure] | None = None,
    pairs: Pairs = "all",
    *,
    null: bool = True,
    nulls: int = 1,
    influence: bool = False,
    **options: Unpack[ProbeOptions],
) -> ComparisonTable:
    """Compare two models, or their saved activations, with every measure at every pair of sites.

    Memory is that of the sums (some matrices per pair of sites, and one vector per sequence and site, whatever the
    number of tokens) and of 256 MB of activations of models; more go to temporary files. With a number ``n_units``, no
    activations are stored.

    Args:
        a: a module, called as ``model(tokens)``, with a mask of padding if it takes one; or saved activations: a
            .npy file (one site, named as the file), a folder of .npy files, a .safetensors file (one site per key), a
            mapping site -> array, tensor or memory map.
            Arrays are (n, d), where each row is a separate unit for error bars and null, or (sequences, positions, d),
            the form for tokens. Widths and depths may differ. ``sample_ids`` among the sites (one per sample or per
            sequence) must be the same on both sides.
        b: the other side, of any of these kinds.
        tokens: the inputs of modules: (sequences, positions), or any inputs whose first dimension counts independent
            sequences; the output of a tokenizer (its ``attention_mask`` becomes the mask), or batches of these; the
            ``Alignment`` of two modules with different tokenizers; or a ``ProbeSet``.
        sites: globs or names of sites, on both sides; by default ``blocks.*.resid_post`` of modules, and all sites of
            saved activations.
        measures: measures; by default CKA and angular Procrustes.
        pairs: all pairs, or those at equal relative depth.
        null: whether to compute the null, which costs as much as the values.
        nulls: number of rearrangements of the null. One is enough near identity, where the null hardly counts. Several
            give p values; they keep the activations of both models, in memory or in temporary files, and each costs as
            much as the values without their errors (a decomposition, for Procrustes or CCA). For linear CKA of
            sequences of equal length 200 cost about as much as two values.
        influence: whether to compute which text differs, see Returns. It costs about as much as the values.
        **options: ``mask``, ``pool``, ``positions``, ``control``, ``n_units`` and ``channels`` as in ``ProbeSet``,
            unless ``tokens`` is one. ``mask`` is true at real positions: padding is ignored, and models whose
            ``forward`` takes a mask receive it. ``channels`` says where features are at sites whose modules do not
            determine it: ``"first"`` for (sequences, features, positions), ``"last"``, or a mapping
            ``{"conv.*": "first"}``.

    Returns:
        a tidy table, a ``pyarrow.Table`` that shows itself in a notebook and has ``to_csv()``, ``to_latex()`` and
        ``figure()``: one row per (measure, site_a, site_b), with value, dissimilarity, stderr, null (its mean over
        rearrangements), null_sd (their spread), p (the share of rearrangements that are at least as similar, counting
        the value itself), null_best and p_best (the null of the most similar of all pairs of sites, and p against it,
        which holds for a pair that was picked), calibrated (1 = identical, 0 = as far as the null),
        calibrated_stderr, n_samples, n_units (units behind stderr), first_pc_a and first_pc_b (the share of each
        site's variance in its first principal component) and note (why a value is missing). With one rearrangement,
        null_sd and p are NaN.

        With ``influence``, also token_influence, one number per sample in the order of sequences and positions, and
        token_index, the place of each sample in ``tokens.flatten()`` of the first model (that of the sequence's first
        token where each sequence is one sample). The influence of a sample is the derivative of the dissimilarity with
        respect to its weight: positive = it makes the models look more different, negative = more alike. Those of a
        sequence add up to the influence of that sequence on Procrustes, Bures and R^2. The standard errors of other
        measures leave a sequence out as a whole, which is another number. ``influential_text`` finds the text.

    Raises:
        ValueError: a site that a side lacks (lists those it has), too few sequences, sides that do not hold the same
            samples, a file that holds no activations, ``influence`` with a cross-fitted measure or a number of
            ``n_units``, or anything that ``ProbeSet`` rejects.

    Examples:
        >>> import torch
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> table = compare({"x": x}, {"y": 3 * x + 1}, measures=[CKA()])
        >>> round(table["value"][0].as_py(), 6)
        1.0
    """
    nulls, measures = checked(pairs, null, nulls, measures)
    if flag("influence", influence):
        check_influence(measures, as_probe_set(tokens, **options))
    source_a, source_b = open_source(a, "a"), open_source(b, "b")
    probe = fitted_to_sources(as_probe_set(tokens, **options), source_a, source_b)
    sites_a, sites_b = sites_of(source_a, sites, probe.inputs_a), sites_of(source_b, sites, probe.inputs_b)
    x, y = (source_a, probe.inputs_a, sites_a), (source_b, probe.inputs_b, sites_b)
    site_pairs = pairs_between(sites_a, sites_b, pairs)
    computable, records = computable_on(probe, measures)
    plan = make_plan(probe, computable)
    check_nulls(max(nulls, 1), probe.extent.sequences)
    if probe.control.drop_top_norm:
        plan = plan.with_positions(probe.remaining_positions(_norms(x, plan, "a") | _norms(y, plan, "b")))
    records += records_of(x, y, site_pairs, computable, plan, nulls, influence)
    are_saved = isinstance(source_a, SavedActivations) and isinstance(source_b, SavedActivations)
    table = table_of(records, site_pairs, measures, influence)
    return ComparisonTable(table, names_of(a, b), SAMPLES if are_saved else PROBE_TEXT)


def checked(
    pairs: Pairs, null: bool, nulls: int, measures: Measure | Iterable[Measure] | Mapping[str, Measure] | None
) -> tuple[int, list[Measure]]:
    """Check arguments that `compare` and `compare_many` share, and return the number of rearrangements and measures.

    Raises:
        ValueError: a value that is not accepted, or no measure.
    """
    choice("pairs", pairs, get_args(Pairs))
    check_nulls(nulls)
    listed = [CKA(), Procrustes()] if measures is None else as_measures(measures)
    check_any(listed)
    return int(nulls) if flag("null", null) else 0, listed


def records_of(
    x: Opened,
    y: Opened,
    pairs: list[SitePair],
    measures: Sequence[Measure],
    plan: Plan,
    nulls: int,
    influence: bool = False,
) -> Records:
    """Compare two sides at pairs of sites, in as many passes as the measures need.

    Args:
        x: the first side.
        y: the second side.
        pairs: pairs of sites.
        measures: the measures.
        plan: how the probe set is cut and read for them.
        nulls: number of rearrangements of the null; 0 for none.
        influence: whether records have the influence of each sample.
    """
    records, a, b = [], x[0], y[0]
    fewer_samples = not influence and plan.lengths.counts is None and plan.probe.extent.sequences > plan.max_samples > 0
    if fewer_samples and isinstance(a, SavedActivations) and isinstance(b, SavedActivations):
        # One sample per sequence is more than sample measures use, so these read their samples in a separate pass.
        sample_measures = [measure for measure in measures if isinstance(measure, SampleMeasure)]
        records += _compared_by_samples(a, b, pairs, sample_measures, plan, nulls)
        measures = [measure for measure in measures if not isinstance(measure, SampleMeasure)]
        plan = make_plan(plan.probe, measures)
    for group in _groups(measures, [x, y], plan) if measures else []:
        records += _compared(x, y, pairs, group, make_plan(plan.probe, group), nulls, influence)
    return records


def table_of(records: Records, pairs: list[SitePair], measures: Sequence[Measure], influence: bool = False) -> pa.Table:
    """Return the table of a comparison, as `compare` describes it."""
    ordered = in_order(records, pairs, measures)
    table = as_table(ordered, COLUMNS)
    for column, kind in zip(INFLUENCE_COLUMNS, (pa.float32(), pa.int64()), strict=True) if influence else ():
        lists = [record.get(column, []) for record in ordered]
        table = table.append_column(column, pa.array(lists, pa.list_(kind)))
    return table


def computable_on(probe: ProbeSet, measures: Sequence[Measure]) -> tuple[Sequence[Measure], Records]:
    """Return the measures that can be computed on a probe set, and the records of the others."""
    if not probe.is_aligned:
        return measures, []
    computable, unavailable = across_tokenizers(measures)
    extra = dict.fromkeys(("first_pc_a", "first_pc_b"), math.nan)
    extra |= dict.fromkeys(("nulls", "exchanged"), torch.full((1,), math.nan))
    return computable, [record | extra for record in unavailable]


def check_influence(measures: Sequence[Measure], probe: ProbeSet) -> None:
    """Check that samples have influences.

    Raises:
        ValueError: they have none with a number of units, nor on a measure whose map is fitted to half of these.
    """
    if probe.n_units is not None:
        raise ValueError("influence=True reads activations twice, and a number n_units reads them once; leave it out")
    if labels := [measure.label for measure in measures if measure.crossfit]:
        raise ValueError(
            f"samples have no influence on cross-fitted measures ({', '.join(labels)}): leave these or `influence` out"
        )


def as_table(records: Records, columns: Sequence[str]) -> pa.Table:
    """Return records as a table with these columns."""
    defaults = {"influence": (), "probe": ""}
    values = {column: [record.get(column, defaults.get(column)) for record in records] for column in columns}
    return pa.table({**values, "influence": pa.array(values["influence"], INFLUENCE)})


def pairs_between(sites_a: list[str], sites_b: list[str], pairs: Pairs) -> list[SitePair]:
    """Return all pairs of sites, or those at equal relative depth."""
    return [(a, b) for a in sites_a for b in sites_b] if pairs == "all" else matched_pairs(sites_a, sites_b)


def _groups(measures: Sequence[Measure], sides: Sequence[Opened], plan: Plan) -> list[Sequence[Measure]]:
    """Divide measures by pass: wide sites are rotated for the sums, and some sample measures need them unrotated.

    The last group has the sums.
    """
    needs_features = [isinstance(measure, SampleMeasure) and not is_rotatable(measure) for measure in measures]
    unrotated = [measure for measure, needs in zip(measures, needs_features, strict=True) if needs]
    others = [measure for measure, needs in zip(measures, needs_features, strict=True) if not needs]
    if not unrotated or not others or not all(map(is_rotatable, others)):
        return [measures]
    chunks = (next(iter(read_chunks(*side, plan, slices=plan.slices[:1]))) for side in sides)
    return [unrotated, others] if any(wide_sites(acts, plan) for acts, _ in chunks) else [measures]


def _norms(side: Opened, plan: Plan, name: str) -> dict[tuple[str, str], Tensor]:
    """Compute the norms of one side's samples, by name and site, from a pass over it."""
    source, inputs, sites = side
    chunks = read_chunks(source, inputs, sites, plan.for_norms(), device_of_sources(source))
    return {(name, site): norms for site, norms in norms_of(chunks).items()}


def _compared(
    a: Opened,
    b: Opened,
    pairs: list[SitePair],
    measures: Sequence[Measure],
    plan: Plan,
    nulls: int,
    influence: bool = False,
) -> Records:
    """Compare two sides: in one pass over both, and more over stored activations for error bars and nulls."""
    device = device_of_sources(a[0], b[0])
    is_stored = plan.stored or nulls > 1 or (nulls > 0 and plan.lengths.uneven)

    def activations(side: Opened, sites: Sequence[str], spill: DiskSpill) -> ModelActivations:
        source, inputs, _ = side
        if isinstance(source, SavedActivations):
            return ModelActivations(plan, sites, SavedChunks(source, sites, plan, device))
        chunks = read_chunks(source, inputs, sites, plan, device)
        return ModelActivations(plan, sites, spill.store(chunks) if is_stored else chunks, device=device)

    sites_a, sites_b = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    with TemporaryDirectory(prefix="activations-") as folder:
        spill = DiskSpill(Path(folder))
        x, y = (activations(side, sites, spill) for side, sites in ((a, sites_a), (b, sites_b)))
        return compare_pair(x, y, pairs, measures, nulls, token_influence=influence)


def _compared_by_samples(
    a: SavedActivations,
    b: SavedActivations,
    pairs: list[SitePair],
    measures: Sequence[SampleMeasure],
    plan: Plan,
    nulls: int,
) -> Records:
    """Compare saved activations of many sequences by measures that read one sample from some of the sequences."""
    sites_a, sites_b = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    records = []
    for max_samples, seed in dict.fromkeys((measure.max_samples, measure.seed) for measure in measures):
        group = [measure for measure in measures if (measure.max_samples, measure.seed) == (max_samples, seed)]
        subset = draw(plan.probe.extent.sequences, max_samples, seed)
        sides = [(thinned(source, sites, plan, subset), None, sites) for source, sites in ((a, sites_a), (b, sites_b))]
        small = make_plan(ProbeSet(Extent(max_samples, 1), n_units=None if plan.probe.n_units is None else 1), group)
        drawn_from = subset, plan.probe.extent.sequences
        small = replace(small, slices=slices_of_subset(plan.slices, subset), drawn_from=drawn_from)
        records += _compared(sides[0], sides[1], pairs, group, small, nulls)
    return records


def in_order(records: Records, pairs: list[SitePair], measures: Sequence[Measure]) -> Records:
    """Return each record once, pair by pair, and per pair measure by measure, in the order given."""
    # Where several passes saw a pair, the last one saw all samples.
    shares = {(record["site_a"], record["site_b"]): (record["first_pc_a"], record["first_pc_b"]) for record in records}
    for record in records:
        record["first_pc_a"], record["first_pc_b"] = shares[record["site_a"], record["site_b"]]
    unique = {(record["measure"], record["site_a"], record["site_b"]): record for record in records}
    place = {pair: index for index, pair in enumerate(dict.fromkeys([*pairs, (LOGITS, LOGITS)]))}
    labels = [measure.label for measure in measures]
    return sorted(
        with_significance(list(unique.values()), measures),
        key=lambda record: (place[record["site_a"], record["site_b"]], labels.index(record["measure"])),
    )
