"""Measures of one model alone at its sites, with error bars, from the sums that a comparison computes anyway."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dissimilarity.comparison.missing import joined, too_few_units
from dissimilarity.inference.jackknife import stderr_of_influence
from dissimilarity.measures.intrinsic import INTRINSIC, Spectrum
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Again
from dissimilarity.moments.products import column_means
from dissimilarity.moments.second_pass import Reading, read_again
from dissimilarity.moments.side import Side

SideAgain = tuple[Side, Again | None]
"""A closed side, and its chunks if they are stored; None where there are sums per unit."""


def intrinsic_of_site(
    side: Side, site: str, again: Again | None = None, in_float64: Callable[[str], SideAgain] | None = None
) -> list[dict[str, Any]]:
    """Return a record per measure of one model alone at a site, from the sums of a closed side.

    Without sums, the measures are those of the samples that sample measures read. Where the site cannot be compared,
    values are NaN, and the note says why; so it does where they have no standard error, and where sums of float32
    products lose a part of the spectrum.

    Args:
        side: the side.
        site: the site.
        again: yields the chunks of the side, if they are stored; None if there are sums per unit.
        in_float64: returns the side with sums of float64 products at a site, if its samples can be read again.
    """
    note, n_units = side.problem(site), side.n_units
    values, errors, n = torch.full((len(INTRINSIC),), math.nan), torch.full((len(INTRINSIC),), math.nan), side.n
    if not note:
        totals, units = _sums(side, site)
        spectrum, n = Spectrum.of(totals), int(totals["n"])
        if spectrum.lost and side.moments and side.is_float32(site):
            if in_float64 is not None:
                precise, again = in_float64(site)
                return intrinsic_of_site(precise, site, again)
            note = (
                f"imprecise: float32 products do not resolve {spectrum.lost} of {len(totals['x'])} directions; leave "
                "out n_units, or pass float64 activations (.double())"
            )
        if again is not None and side.moments and n_units > 1:
            reading = Reading(site, [site], spectrum.estimate_again())
            meetings = ((chunk, None, chunk) for chunk in again([site]))
            values, of_sequences = read_again([reading], meetings, len(side.lengths.units))[0]
            influence = of_sequences.new_zeros(n_units, len(INTRINSIC))
            errors = stderr_of_influence(influence.index_add_(0, side.units.to(influence.device), of_sequences))
        elif n_units > 1:
            values, influence = spectrum.estimate(units)
            errors = stderr_of_influence(influence)
        else:
            values = spectrum.measures()
            note = joined(note, f"no standard error: {why}" if (why := too_few_units(side)) else "")
    records = []
    for name, value, error in zip(INTRINSIC, values.tolist(), errors.tolist(), strict=True):
        is_undefined = math.isnan(value) and not note
        context = {"n_samples": n, "n_units": n_units, "note": f"{name} needs 2 components" if is_undefined else note}
        stderr = math.nan if math.isnan(value) else error
        records.append({"measure": name, "site": site, "value": value, "stderr": stderr, **context})
    return records


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
