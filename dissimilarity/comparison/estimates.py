"""Values of moment measures with the influences of sequences, at all pairs of sites, from stored activations.

The chunks are read once for the terms of each side with itself, and once per group of jobs for its pairs, measures and
null together.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.moments.cross import SitePair
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.paired_samples import Again
from dissimilarity.moments.second_pass import Meeting, Reading, read_again
from dissimilarity.moments.side import Side

SLOPES = 2**25
"""Maximum size of the products of sites whose slopes are in memory together."""
SEQUENCES = 2**20
"""Maximum number of sequences, counted once per pair, whose sums are in memory together."""

Estimated = tuple[Float[Tensor, " pairs"], Float[Tensor, "units pairs"]]


class ReadAgain(NamedTuple):
    """Chunks of stored activations, which are read again for influences.

    Attributes:
        x: yields those of the first model at some sites.
        null_x: yields the same as the null arranges them, where their sums have a side of their own.
        y: yields those of the second model.
        meetings: yields both at some sites of each, as they are and as they meet in the null.
    """

    x: Again
    null_x: Again
    y: Again
    meetings: Callable[[Sequence[str], Sequence[str]], Iterable[Meeting]]


class Job(NamedTuple):
    """A moment measure at pairs of one site with partners of one width.

    Attributes:
        measure: the measure.
        pairs: the pairs.
        x: the first side, or that of the null.
        totals: returns the sums over all samples.
        size: number of entries in the products of their sites.
        in_null: whether the sums are those of the null.
    """

    measure: MomentMeasure
    pairs: list[SitePair]
    x: Side
    totals: Callable[[], Moments]
    size: int
    in_null: bool


def estimates(jobs: Sequence[Job], x: Side, y: Side, again: ReadAgain) -> list[Estimated | Exception]:
    """Return the values of each job and the influences of units on them, or the error that prevented them."""
    for side in {id(job.x): job.x for job in jobs}.values():
        chunks = again.x if side is x else again.null_x
        _read_self_terms([job for job in jobs if job.x is side], side, 0, chunks)
    _read_self_terms(jobs, y, 1, again.y)
    results: list[Estimated | Exception] = []
    sequences = len(x.lengths.units)
    for group in _groups(jobs, sequences):
        readings: dict[int, Reading] = {}
        outcomes: dict[int, Any] = {}
        for number, job in enumerate(group):
            site, partners = job.pairs[0][0], [partner for _, partner in job.pairs]
            try:
                terms = _self_terms(job, job.x, [site]), _self_terms(job, y, partners)
                second_pass = job.measure.estimate_again(job.totals(), *terms)
                readings[number] = Reading(site, partners, second_pass, job.in_null)
            except (ValueError, RuntimeError) as error:
                outcomes[number] = error
        if readings:
            sites, partners = _sites(group)
            meetings = again.meetings(sites, partners)
            read = read_again(list(readings.values()), meetings, sequences)
            outcomes |= dict(zip(readings, read, strict=True))
        results += [_of_units(outcomes[number], x) for number in range(len(group))]
    return results


def _of_units(outcome: Any, side: Side) -> Estimated | Exception:
    """Return influences of sequences as those of units."""
    if isinstance(outcome, Exception):
        return outcome
    value, of_sequences = outcome
    influence = of_sequences.new_zeros(side.n_units, of_sequences.shape[1])
    return value, influence.index_add_(0, side.units.to(influence.device), of_sequences)


def _groups(jobs: Sequence[Job], sequences: int) -> list[list[Job]]:
    """Divide jobs so that the slopes of each group stay within `SLOPES`, and its sums within `SEQUENCES`."""
    groups: list[list[Job]] = []
    slopes = sums = 0
    for job in jobs:
        own = sequences * len(job.pairs)
        if not groups or slopes + job.size > SLOPES or sums + own > SEQUENCES:
            groups.append([])
            slopes = sums = 0
        groups[-1].append(job)
        slopes, sums = slopes + job.size, sums + own
    return groups


def _sites(jobs: Sequence[Job]) -> tuple[list[str], list[str]]:
    """Return the sites of both sides."""
    pairs = [pair for job in jobs for pair in job.pairs]
    first, second = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    return first, second


def _read_self_terms(jobs: Sequence[Job], side: Side, number: int, again: Again) -> None:
    """Compute the self terms of measures at their sites, which a side keeps; the errors where there are none."""
    readings: dict[tuple[str, str], Reading] = {}
    for job in jobs:
        for pair in job.pairs:
            key = job.measure.label, pair[number]
            if key in readings or key in side.prepared_again:
                continue
            try:
                terms = job.measure.terms_again({**side.counts()[0], **side.totals(pair[number])})
            except (ValueError, RuntimeError) as error:
                side.prepared_again[key] = error
                continue
            if terms is None:
                side.prepared_again[key] = None
            else:
                readings[key] = Reading(pair[number], [pair[number]], terms)
    if readings:
        sites = list(dict.fromkeys(site for _, site in readings))
        meetings = ((chunk, None, chunk) for chunk in again(sites))
        side.prepared_again |= zip(
            readings, read_again([*readings.values()], meetings, len(side.lengths.units)), strict=True
        )


def _self_terms(job: Job, side: Side, sites: Sequence[str]) -> list[Any]:
    """Return the self terms of a measure at some sites.

    Raises:
        ValueError, RuntimeError: one of them has none.
    """
    terms = [side.prepared_again[job.measure.label, site] for site in sites]
    for error in terms:
        if isinstance(error, Exception):
            raise error
    return terms
