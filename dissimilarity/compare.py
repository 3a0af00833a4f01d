"""Comparing two models on one probe set, site by site."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from torch import Tensor, nn

from dissimilarity.chunks import activations
from dissimilarity.evaluate import evaluate
from dissimilarity.layout import Pool, lay_out
from dissimilarity.measure import Measure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.sites import matched_pairs, resolve

COLUMNS = ("measure", "site_a", "site_b", "value", "dissimilarity", "stderr", "null", "calibrated", "n_samples", "note")


def compare(
    model_a: nn.Module,
    model_b: nn.Module,
    tokens: Tensor,
    sites: str | Sequence[str] = "blocks.*.resid_post",
    measures: Sequence[Measure] | None = None,
    pairs: Literal["all", "matched"] = "all",
    groups: int = 16,
    pool: Pool = "none",
    positions: int | None = None,
    null: bool = True,
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
        pool: ``none``: each position is a sample; ``mean`` or ``last``: one sample a sequence.
        positions: how many positions of each sequence count, chosen once for all; None for every one.
        null: whether to compute the null, which costs as much as the values.

    Returns:
        a tidy table, one row a (measure, site_a, site_b), with value, dissimilarity, stderr, null, calibrated (1 =
        identical, 0 = as far as the null), n_samples and note (why a value is missing).

    Raises:
        ValueError: a site that a model lacks (lists those it has), or too few sequences.
    """
    measures = [CKA(), Procrustes()] if measures is None else list(measures)
    sites_a, sites_b = resolve(model_a, sites), resolve(model_b, sites)
    chosen = [(a, b) for a in sites_a for b in sites_b] if pairs == "all" else matched_pairs(sites_a, sites_b)
    layout = lay_out(tokens, measures, groups, pool, positions)
    x, y = layout.side(sites_a), layout.side(sites_b)
    cross, shifted = layout.cross(chosen), layout.cross(chosen, errors=False) if null else None
    both = zip(
        *(
            activations(model, tokens, layout.captured(sites), layout.slices, layout.reader(sites))
            for model, sites in ((model_a, sites_a), (model_b, sites_b))
        ),
        strict=True,
    )
    for (acts_a, of), (acts_b, _) in both:
        chunk_a, chunk_b = x.add(acts_a, of), y.add(acts_b, of)
        cross.add(chunk_a, chunk_b)
        if shifted is not None:
            shifted.add(chunk_a, chunk_b.deranged())
    rows = evaluate(measures, x.close(), y.close(), cross.close(), shifted.close() if shifted else None)
    return pa.table({column: [row[column] for row in rows] for column in COLUMNS})
