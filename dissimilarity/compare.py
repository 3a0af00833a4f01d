"""Comparing two models on one probe set, site by site."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from torch import Tensor, nn

from dissimilarity.chunks import TOKENS_AT_ONCE, activations, plan
from dissimilarity.evaluate import evaluate
from dissimilarity.measure import Measure, SampleMeasure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.pairs import Cross, Side
from dissimilarity.sampling import sampled_positions
from dissimilarity.sites import matched_pairs, resolve

COLUMNS = ("measure", "site_a", "site_b", "value", "dissimilarity", "stderr", "null", "n_samples", "note")


def compare(
    model_a: nn.Module,
    model_b: nn.Module,
    tokens: Tensor,
    sites: str | Sequence[str] = "blocks.*.resid_post",
    measures: Sequence[Measure] | None = None,
    pairs: Literal["all", "matched"] = "all",
    groups: int = 16,
) -> pa.Table:
    """Every measure at every pair of sites of two models.

    The activations are never held for more than one batch: memory is that of the sums, whatever the number of tokens.

    Args:
        model_a, model_b: called as ``model(tokens)``; widths and depths may differ.
        tokens: (sequences, positions), or any inputs whose first dimension counts independent units.
        sites: globs or names of sites, on both models.
        measures: by default CKA and angular Procrustes.
        pairs: all pairs, or those at equal relative depth.
        groups: jackknife groups of sequences for the standard error.

    Returns:
        a tidy table, one row a (measure, site_a, site_b), with value, dissimilarity, stderr, null, n_samples and note
        (why a value is missing).

    Raises:
        ValueError: a site that a model lacks (lists those it has), or too few sequences.
    """
    measures = [CKA(), Procrustes()] if measures is None else list(measures)
    labels = [measure.label for measure in measures]
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"expected measures of different labels, found {labels}; compare the duplicates in another call"
        )
    sites_a, sites_b = resolve(model_a, sites), resolve(model_b, sites)
    chosen = [(a, b) for a in sites_a for b in sites_b] if pairs == "all" else matched_pairs(sites_a, sites_b)
    length = tokens.shape[1] if tokens.ndim == 2 else 1
    slices = plan(len(tokens), groups, max(1, TOKENS_AT_ONCE // length))
    groups = 1 + slices[-1][2]
    samples = max((measure.samples for measure in measures if isinstance(measure, SampleMeasure)), default=0)
    positions = sampled_positions(len(tokens), length, samples) if samples else None
    x, y = Side(groups, positions), Side(groups, positions)
    cross, null = Cross(chosen, groups), Cross(chosen)
    both = zip(
        activations(model_a, tokens, sites_a, slices), activations(model_b, tokens, sites_b, slices), strict=True
    )
    for (acts_a, of), (acts_b, _) in both:
        chunk_a, chunk_b = x.add(acts_a, of), y.add(acts_b, of)
        cross.add(chunk_a, chunk_b)
        null.add(chunk_a, chunk_b.deranged())
    rows = evaluate(measures, x.close(), y.close(), cross.close(), null.close())
    return pa.table({column: [row[column] for row in rows] for column in COLUMNS})
