"""Measures of one model alone at its sites, with error bars, from the sums that a comparison computes anyway."""

import math
from typing import Any

import torch
from torch import Tensor

from dissimilarity.comparison.missing import too_few_units
from dissimilarity.inference.jackknife import stderr_of_influence
from dissimilarity.measures.intrinsic import (
    INTRINSIC,
    estimate_intrinsic,
    estimate_intrinsic_again,
    intrinsic_from_sums,
)
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Again
from dissimilarity.moments.products import column_means
from dissimilarity.moments.second_pass import Reading, read_again
from dissimilarity.moments.side import Side


def intrinsic_of_site(side: Side, site: str, again: Again | None = None) -> list[dict[str, Any]]:
    """Return a record per measure of one model alone at a site, from the sums of a closed side.

    Without sums, the measures are those of the samples that sample measures read. Where the site cannot be compared,
    values are NaN, and the note says why; so it does where they have no standard error.

    Args:
        side: the side.
        site: the site.
        again: yields the chunks of the side, if they are stored; None if there are sums per unit.
    """
    note, n_units = side.problem(site), side.n_units
    values, errors, n = torch.full((len(INTRINSIC),), math.nan), torch.full((len(INTRINSIC),), math.nan), side.n
    if not note:
        totals, units = _sums(side, site)
        n = int(totals["n"])
        if again is not None and side.moments and n_units > 1:
            reading = Reading(site, [site], estimate_intrinsic_again(totals))
            meetings = ((chunk, None, chunk) for chunk in again([site]))
            values, of_sequences = read_again([reading], meetings, len(side.lengths.units))[0]
            influence = of_sequences.new_zeros(n_units, len(INTRINSIC))
            errors = stderr_of_influence(influence.index_add_(0, side.units.to(influence.device), of_sequences))
        elif n_units > 1:
            values, influence = estimate_intrinsic(totals, units)
            errors = stderr_of_influence(influence)
        else:
            values = intrinsic_from_sums(totals)
            note = f"no standard error: {why}" if (why := too_few_units(side)) else ""
    numbers = zip(INTRINSIC, values.tolist(), errors.tolist(), strict=True)
    context = {"n_samples": n, "n_units": n_units, "note": note}
    return [
        {"measure": name, "site": site, "value": value, "stderr": error, **context} for name, value, error in numbers
    ]


def _sums(side: Side, site: str) -> tuple[Moments, Moments]:
    """Return the sums of a site over all samples and per unit."""
    if side.moments:
        (counts, unit_counts), units = side.counts(), side.sums.units.get(site, {})
        return {**side.sums.totals[site], "n": counts["n"]}, {**units, "n": unit_counts["n"]}
    subset = side.subset(site, side.lengths.max_samples, 0)
    samples = side.samples[site][subset.index.to(side.samples[site].device)].double()
    samples = samples - column_means(samples)
    unit = side.units[subset.sequence].to(samples.device)
    parts = [_sums_of_samples(samples[unit == number]) for number in range(side.n_units)]
    units = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
    return {key: value.sum(0) for key, value in units.items()}, units


def _sums_of_samples(x: Tensor) -> Moments:
    n = x.new_tensor(len(x))
    return {"n": n, "x": x.sum(0), "xx": x.T @ x, "eps_x": n * torch.finfo(x.dtype).eps}
