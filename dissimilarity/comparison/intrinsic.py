"""Measure one model, or saved activations, alone: effective rank and spectrum of each site."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

import pyarrow as pa

from dissimilarity.comparison.activations import DiskSpill, ModelActivations, read_chunks
from dissimilarity.comparison.plan import make_plan
from dissimilarity.comparison.saved import Source, device_of_sources, fitted_to_sources, open_source, sites_of
from dissimilarity.probe.outliers import norms_of
from dissimilarity.probe.probe_set import ProbeOptions, Tokens, as_probe_set

COLUMNS = ("measure", "site", "value", "stderr", "n_samples", "n_units", "note")


def intrinsic(
    model: Source, tokens: Tokens = None, sites: str | Sequence[str] | None = None, **options: Unpack[ProbeOptions]
) -> pa.Table:
    """Return the effective rank, participation ratio, spectral decay and first component of each site of a model.

    ``dissimilarity.functional`` has the formulas: ``rankme``, ``participation_ratio``, ``alpha_req`` and
    ``first_component_share``. One eigendecomposition per site serves all.

    Args:
        model: a module, or its saved activations, as for ``compare``.
        tokens: the inputs of a module, as for ``compare``.
        sites: globs or names of sites; by default as for ``compare``.
        **options: as for ``compare``.

    Returns:
        a tidy table, one row per (site, measure), with value, stderr (jackknife over whole sequences, or with a
        number n_units over units of them), n_samples, n_units and note (why a value is missing).

    Raises:
        ValueError: as for ``compare``.

    Examples:
        >>> import torch
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> table = intrinsic({"x": x})
        >>> table["measure"].to_pylist()
        ['rankme', 'participation_ratio', 'alpha_req', 'first_component_share']
        >>> 7 < table["value"][0].as_py() < 8
        True
    """
    source = open_source(model, "model")
    probe = fitted_to_sources(as_probe_set(tokens, **options), source)
    names, device = sites_of(source, sites, probe.inputs_a), device_of_sources(source)
    plan = replace(make_plan(probe, []), moments=True)
    if probe.control.drop_top_norm:
        chunks = read_chunks(source, probe.inputs_a, names, plan.for_norms(), device)
        norms = {("model", site): values for site, values in norms_of(chunks).items()}
        plan = plan.with_positions(probe.remaining_positions(norms))
    with TemporaryDirectory(prefix="activations-") as folder:
        chunks = read_chunks(source, plan.probe.inputs_a, names, plan, device)
        stored = DiskSpill(Path(folder)).store(chunks) if plan.stored else chunks
        records = ModelActivations(plan, names, stored).summed(cache=False).intrinsic
    return pa.table({column: [record[column] for record in records] for column in COLUMNS})
