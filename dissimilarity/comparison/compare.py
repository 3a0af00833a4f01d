"""Comparing two models, or activations that were saved, on one probe set, site by site."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
from jaxtyping import Bool
from torch import Tensor, nn

from dissimilarity.capture.sites import LOGITS, matched_pairs
from dissimilarity.comparison.evaluate import evaluate
from dissimilarity.comparison.first_component import first_share, with_shares
from dissimilarity.comparison.plan import Layout, Pool, lay_out
from dissimilarity.comparison.saved import (
    Saved,
    Source,
    agreed_extent,
    device_of,
    open_source,
    sites_of,
    stream,
    thinned,
)
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import across_tokenizers
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Inputs, kept_slices
from dissimilarity.probe.outliers import NO_CONTROL, Control, norms_of
from dissimilarity.probe.sampling import sampled_sequences

COLUMNS = (
    "measure",
    "site_a",
    "site_b",
    "value",
    "dissimilarity",
    "stderr",
    "null",
    "calibrated",
    "n_samples",
    "first_pc_a",
    "first_pc_b",
    "note",
)


def compare(
    a: Source,
    b: Source,
    tokens: Tensor | Alignment | None = None,
    sites: str | Sequence[str] | None = None,
    measures: Sequence[Measure] | None = None,
    pairs: Literal["all", "matched"] = "all",
    groups: int = 16,
    pool: Pool = "none",
    positions: int | None = None,
    null: bool = True,
    control: Control = NO_CONTROL,
    mask: Bool[Tensor, "sequences positions"] | None = None,
) -> pa.Table:
    """Every measure at every pair of sites of two models, or of the activations that were saved of them.

    The activations are never held for more than one batch: memory is that of the sums, whatever the number of tokens.

    Args:
        a, b: modules, called as ``model(tokens)``; or saved activations: a .npy file (one site, named as the file), a
            folder of .npy files, a .safetensors file (a site each key), a mapping site -> array, tensor or memory map.
            Arrays are (n, d), where each row is a unit of its own for error bars and null, or
            (sequences, positions, d): rows that are tokens want the second form. Widths and depths may differ.
            ``sample_ids`` among the sites (one each sample or each sequence) must be the same on both sides.
        tokens: (sequences, positions), or any inputs whose first dimension counts independent units; for modules. Of
            two modules that read other tokens, what ``align`` makes of both: its units are then the positions.
        sites: globs or names of sites, on both sides; by default ``blocks.*.resid_post`` of modules, and all sites of
            saved activations.
        measures: by default CKA and angular Procrustes.
        pairs: all pairs, or those at equal relative depth.
        groups: jackknife groups of sequences for the standard error.
        pool: ``none``: each position is a sample; ``mean``, ``first`` or ``last``: one sample a sequence.
        positions: how many of the positions that count are taken, chosen once for all; None for every one.
        null: whether to compute the null, which costs as much as the values.
        control: which positions can count at all, and on what scale their rows are compared; ``drop_top_norm`` takes a
            pass over both sides beforehand.
        mask: which positions are real; what stands at the others, padding, is no sample of anything, whatever it is.
            Groups are put together, so that there are fewer of them, where one sequence has most of the rows of one.

    Returns:
        a tidy table, one row a (measure, site_a, site_b), with value, dissimilarity, stderr, null, calibrated (1 =
        identical, 0 = as far as the null), n_samples, first_pc_a and first_pc_b (the share of each site's variance in
        its first principal component) and note (why a value is missing).

    Raises:
        ValueError: a site that a side lacks (lists those it has), too few sequences, sides that do not hold the same
            samples, a file that holds no activations, a control or a mask that leaves no position of a sequence, a
            mask of another shape or beside an alignment.
    """
    measures = [CKA(), Procrustes()] if measures is None else list(measures)
    side_a, side_b = open_source(a, "a"), open_source(b, "b")
    extent = agreed_extent(side_a, side_b, tokens)
    wanted, rows = measures, []
    inputs: tuple[Inputs | None, Inputs | None] = (None, None)
    if isinstance(tokens, Alignment):
        if mask is not None:
            raise ValueError("expected no mask beside an alignment, whose units are all real; leave it out")
        inputs, (measures, rows) = (tokens.a, tokens.b), across_tokenizers(measures)
        rows = [row | {"first_pc_a": math.nan, "first_pc_b": math.nan} for row in rows]
    elif tokens is not None:
        inputs = (tokens, tokens)
    sites_a, sites_b = sites_of(side_a, sites), sites_of(side_b, sites)
    chosen = [(a, b) for a in sites_a for b in sites_b] if pairs == "all" else matched_pairs(sites_a, sites_b)
    layout = lay_out(extent, measures, groups, pool, positions, control, mask)
    if control.drop_top_norm:
        layout = _without_top_norms(layout, (side_a, inputs[0], sites_a), (side_b, inputs[1], sites_b))
    many = layout.uneven is None and layout.sequences > layout.samples > 0
    if many and isinstance(side_a, Saved) and isinstance(side_b, Saved):
        # Of each sequence a row would be kept for the sample measures, which see fewer: they get theirs beforehand.
        few = [measure for measure in measures if isinstance(measure, SampleMeasure)]
        for samples, seed in dict.fromkeys((measure.max_samples, measure.seed) for measure in few):
            alike = [measure for measure in few if (measure.max_samples, measure.seed) == (samples, seed)]
            kept = sampled_sequences(layout.sequences, samples, seed)
            thin_a, thin_b = thinned(side_a, sites_a, layout, kept), thinned(side_b, sites_b, layout, kept)
            small = replace(lay_out((samples, 1), alike, groups), slices=kept_slices(layout.slices, kept))
            rows += _rows(thin_a, thin_b, (None, None), chosen, alike, small, null)
        rest = [measure for measure in measures if not isinstance(measure, SampleMeasure)]
        layout = replace(lay_out(extent, rest, groups, pool, positions, control), kept=layout.kept)
    else:
        rest = measures
    if rest:
        rows += _rows(side_a, side_b, inputs, chosen, rest, layout, null)
    return pa.table({column: [row[column] for row in ordered(rows, chosen, wanted)] for column in COLUMNS})


def _without_top_norms(
    layout: Layout,
    a: tuple[nn.Module | Saved, Inputs | None, list[str]],
    b: tuple[nn.Module | Saved, Inputs | None, list[str]],
) -> Layout:
    """The layout without the positions whose norms stand out, from a pass over both sides."""
    device, wide = device_of(a[0], b[0]), layout.for_norms()
    norms = {
        (name, site): of
        for name, (source, inputs, sites) in {"a": a, "b": b}.items()
        for site, of in norms_of(stream(source, inputs, sites, wide, device)).items()
    }
    return replace(layout, kept=layout.without_top_norms(norms))


def _rows(
    a: nn.Module | Saved,
    b: nn.Module | Saved,
    inputs: tuple[Inputs | None, Inputs | None],
    pairs: list[tuple[str, str]],
    measures: Sequence[Measure],
    layout: Layout,
    with_null: bool,
) -> list[dict[str, Any]]:
    """One pass over both sides, and what the measures make of it."""
    sites_a, sites_b = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    x, y = layout.side(sites_a), layout.side(sites_b)
    cross, null = layout.cross(pairs), layout.cross(pairs, errors=False) if with_null else None
    device = device_of(a, b)
    streams = stream(a, inputs[0], sites_a, layout, device), stream(b, inputs[1], sites_b, layout, device)
    for (acts_a, of), (acts_b, _) in zip(*streams, strict=True):
        chunk_a, chunk_b = x.add(acts_a, of), y.add(acts_b, of)
        cross.add(chunk_a, chunk_b)
        if null is not None and layout.moments:
            null.add(chunk_a.deranged(), chunk_b)
    rows = evaluate(measures, x.close(), y.close(), cross.close(), null.close() if null is not None else None)
    return with_shares(
        rows, *({site: first_share(of, site) for site in sites} for of, sites in ((x, sites_a), (y, sites_b)))
    )


def ordered(
    rows: list[dict[str, Any]], pairs: list[tuple[str, str]], measures: Sequence[Measure]
) -> list[dict[str, Any]]:
    """Each row once, pair by pair, and of each pair measure by measure, as they were given."""
    # Of a pair that several passes saw, the last one saw all rows.
    shares = {(row["site_a"], row["site_b"]): (row["first_pc_a"], row["first_pc_b"]) for row in rows}
    for row in rows:
        row["first_pc_a"], row["first_pc_b"] = shares[row["site_a"], row["site_b"]]
    once = {(row["measure"], row["site_a"], row["site_b"]): row for row in rows}
    place = {pair: index for index, pair in enumerate(dict.fromkeys([*pairs, (LOGITS, LOGITS)]))}
    labels = [measure.label for measure in measures]
    return sorted(once.values(), key=lambda row: (place[row["site_a"], row["site_b"]], labels.index(row["measure"])))
