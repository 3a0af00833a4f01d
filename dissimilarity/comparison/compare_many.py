"""Compare many models with each other. Each runs once, one at a time; pairs are computed from the stored activations.

N models take N passes over the probe set, not N^2. Sums over pairs are computed for some sites at a time, so memory is
that of one model, or of the sums of some sites, whatever the number of models and layers.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import torch
from torch import nn

from dissimilarity.comparison.activations import DiskSpill, ModelActivations, SiteBlockCache, read_chunks
from dissimilarity.comparison.block_by_block import read_once
from dissimilarity.comparison.compare import (
    COLUMNS,
    Pairs,
    Records,
    as_table,
    checked,
    compare,
    in_order,
    pairs_between,
)
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import Plan, make_plan
from dissimilarity.comparison.result import ManyModelsTable
from dissimilarity.comparison.saved import (
    SavedActivations,
    Source,
    device_of_sources,
    fitted_to_sources,
    open_source,
    sites_of,
)
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.probe.arguments import function, mapping, shown
from dissimilarity.probe.outliers import norms_of
from dissimilarity.probe.probe_set import ProbeOptions, ProbeSet, Tokens, as_probe_set

Couple = tuple[str, str]
ModelSource = Source | Callable[[], nn.Module]
OnProgress = Callable[[str], object]


def compare_many(
    models: Mapping[str, ModelSource],
    tokens: Tokens = None,
    sites: str | Sequence[str] | None = None,
    measures: Measure | Sequence[Measure] | None = None,
    pairs: Pairs = "all",
    *,
    null: bool = True,
    nulls: int = 1,
    couples: Sequence[Couple] | None = None,
    on_progress: OnProgress = lambda message: None,
    **options: Unpack[ProbeOptions],
) -> ManyModelsTable:
    """Compare every two models with every measure at every pair of sites.

    Args:
        models: label -> anything that `compare` takes, or a function that loads a module, which is released before the
            next one is loaded.
        tokens: as for `compare`. With an alignment, the first model of a couple reads its first side.
        sites: as for `compare`.
        measures: as for `compare`.
        pairs: as for `compare`.
        null: as for `compare`.
        nulls: as for `compare`.
        couples: pairs of models to compare, by label; by default every two models. A model may be compared with itself.
        on_progress: called with a status message.
        **options: as for `compare`. Positions that ``control`` drops for their norm in any of the models are dropped in
            all, which takes a pass over each beforehand.

    Returns:
        the tables of `compare`, couple after couple, with the columns model_a and model_b in front.

    Raises:
        ValueError: as for `compare`, naming the model; fewer than two models, or a couple with an unknown label.

    >>> import torch
    >>> from dissimilarity import CKA
    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> table = compare_many({"a": {"x": x}, "b": {"x": 2 * x}, "c": {"x": x[:, :4]}}, measures=[CKA()])
    >>> table.select(["model_a", "model_b"]).to_pylist()[-1]
    {'model_a': 'b', 'model_b': 'c'}
    """
    mapping("models", models, "{'a': model_a, 'b': model_b}")
    function("on_progress", on_progress, "print")
    couples = list(combinations(models, 2)) if couples is None else _couples(couples)
    unknown = sorted({label for couple in couples for label in couple} - set(models))
    if unknown or not couples:
        problem = f"couples with {', '.join(unknown)}" if unknown else f"{len(models)} and no couple"
        raise ValueError(f"expected two models or more and couples of their labels, found {problem}")
    rearrangements, measures = checked(pairs, null, nulls, measures)
    probe = as_probe_set(tokens, **options)
    saved = {label for label, model in models.items() if not callable(model)}
    # Two files need no model run, and an alignment belongs to two models: `compare` streams these.
    streamed = [couple for couple in couples if probe.is_aligned or saved.issuperset(couple)]
    captured = [couple for couple in couples if couple not in streamed]
    records: dict[Couple, Records] = {}
    if captured:
        labels = {label for couple in captured for label in couple}
        with TemporaryDirectory(prefix="activations-") as folder:
            needed = {label: model for label, model in models.items() if label in labels}
            stores = _captured(needed, probe, sites, measures, DiskSpill(Path(folder)), on_progress)
            records = _compared(SiteBlockCache(stores), captured, measures, pairs, rearrangements, on_progress)
    for a, b in streamed:
        on_progress(f"{a} and {b}")
        table = compare(_loaded(models[a]), _loaded(models[b]), probe, sites, measures, pairs, null=null, nulls=nulls)
        records[a, b] = table.to_pylist()
    rows = [{"model_a": a, "model_b": b, **record} for a, b in couples for record in records[a, b]]
    return ManyModelsTable(as_table(rows, ("model_a", "model_b", *COLUMNS)))


def _couples(couples: Sequence[Couple]) -> list[Couple]:
    """Return pairs of labels, each once.

    Raises:
        ValueError: something else.
    """
    listed: list[Any] = list(couples) if isinstance(couples, Sequence) and not isinstance(couples, str) else [couples]
    for couple in listed:
        if not isinstance(couple, Sequence) or isinstance(couple, str) or len(couple) != 2:
            raise ValueError(f"expected couples as pairs of labels such as [('a', 'b')], found {shown(couple)}")
    return list(dict.fromkeys((a, b) for a, b in listed))


def _captured(
    models: Mapping[str, ModelSource],
    probe: ProbeSet,
    sites: str | Sequence[str] | None,
    measures: Sequence[Measure],
    spill: DiskSpill,
    on_progress: OnProgress,
) -> dict[str, ModelActivations]:
    """Load models one by one, run each and store its activations; sums are computed where those of the first are."""
    plan: Plan | None = None
    device: torch.device | None = None

    def opened(label: str) -> tuple[nn.Module | SavedActivations, list[str], Plan]:
        on_progress(f"{label} on the probe set")
        source = open_source(_loaded(models[label]), label)
        fitted = make_plan(fitted_to_sources(probe, source), measures)
        try:
            return source, sites_of(source, sites, probe.inputs_a), plan or fitted
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error

    if probe.control.drop_top_norm:
        norms = {}
        for label in models:
            source, source_sites, model_plan = opened(label)
            plan = plan or model_plan
            inputs, device = plan.probe.inputs_a, device or device_of_sources(source)
            with read_once(source, label, inputs, source_sites) as source:
                chunks = read_chunks(source, inputs, source_sites, plan.for_norms(), device)
                norms.update({(label, site): site_norms for site, site_norms in norms_of(chunks).items()})
            del source
        assert plan is not None
        plan = plan.with_positions(plan.probe.remaining_positions(norms))
    stores = {}
    for label in models:
        source, source_sites, model_plan = opened(label)
        plan = plan or model_plan
        inputs, device = plan.probe.inputs_a, device or device_of_sources(source)
        with read_once(source, label, inputs, plan.captured(source_sites)) as source:
            chunks = spill.store(read_chunks(source, inputs, source_sites, plan, device))
        stores[label] = ModelActivations(plan, source_sites, chunks, device=device)
        del source
    return stores


def _loaded(model: ModelSource) -> Source:
    """Return a source, loaded if the model is a function that loads it."""
    return model() if callable(model) and not isinstance(model, nn.Module) else model  # pyright: ignore


def _compared(
    blocks: SiteBlockCache,
    couples: Sequence[Couple],
    measures: Sequence[Measure],
    pairs: Pairs,
    nulls: int,
    on_progress: OnProgress,
) -> dict[Couple, Records]:
    """Compare each couple block by block, and return its records in the order of `compare`."""
    stores, records = blocks.models, {couple: [] for couple in couples}
    site_pairs = {(a, b): pairs_between(stores[a].sites, stores[b].sites, pairs) for a, b in couples}
    inner = [measure for measure in measures if not isinstance(measure, OutputMeasure)]
    for a in dict.fromkeys(a for a, _ in couples):
        partners = [b for first, b in couples if first == a]
        for place_a, sites_a in enumerate(stores[a].blocks()):
            x = blocks(a, sites_a).kept_side_by_side()
            for b in partners:
                on_progress(f"{a} and {b}")
                for place_b, sites_b in enumerate(stores[b].blocks()):
                    block_pairs = [pair for pair in site_pairs[a, b] if pair[0] in sites_a and pair[1] in sites_b]
                    first = place_a == place_b == 0
                    if block_pairs or (first and len(inner) < len(measures)):
                        block_measures = measures if first else inner
                        records[a, b] += compare_pair(x, blocks(b, sites_b), block_pairs, block_measures, nulls)
    return {couple: in_order(records[couple], site_pairs[couple], measures) for couple in couples}
