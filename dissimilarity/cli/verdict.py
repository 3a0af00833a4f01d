"""Say in words how different two models are, and from which layer on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from dissimilarity.capture.site_names import site_name
from dissimilarity.comparison.elementwise import MARGIN, Elementwise, OutputDifference, SiteDifference
from dissimilarity.inference.jackknife import half_width, plus_minus
from dissimilarity.measures.base.measure import Measure
from dissimilarity.tables.export import two_digits

NEAR = 0.5
"""Mean cosine at the first site above which two models are versions of one, whose numbers can be subtracted."""

NAMED = 3
"""Pairs of layers that a sentence names."""

MOST = 0.5
"""Share of the variance in one direction above which the verdict mentions it."""

SAME = 5e-4
"""Dissimilarity below which values are the same to three digits."""


class Null(NamedTuple):
    """Words for the null: whose value it is, and what scores it."""

    scores: str
    what: str


OF_TEXT = Null("different text scores", "models that read different text")
OF_SAMPLES = Null("different samples score", "representations of different samples")


def verdict(
    rows: Sequence[dict[str, Any]],
    measure: Measure,
    differences: Elementwise | None,
    name_a: str,
    name_b: str,
    are_arrays: bool = False,
) -> str:
    """Return what came out, in one to three sentences.

    Args:
        rows: rows of the measure at matched sites, in depth order.
        measure: the measure that decides.
        differences: element by element; None where that makes no sense.
        name_a: name of the first model.
        name_b: name of the second model.
        are_arrays: whether both are saved activations, which need not be of text or of models.
    """
    sentences = []
    if differences is not None and differences.sites:
        if differences.is_identical:
            return _identical(differences.outputs, name_a, name_b)
        if differences.sites[0].cosine > NEAR:
            sentences += _nearly_equal(differences, name_a, name_b)
    subject = "They" if sentences else f"{name_a} and {name_b}"
    sentences.append(_by_measure(rows, measure, subject, are_arrays))
    return " ".join(filter(None, sentences))


def _identical(outputs: OutputDifference | None, name_a: str, name_b: str) -> str:
    """Say that all activations are the same, and whether predictions are."""
    if outputs is None:
        return (
            f"All activations of {name_a} and {name_b} that were compared agree to the last bit. Predictions were not "
            "compared: at least one has no head, or their vocabularies differ."
        )
    if outputs.largest == 0:
        return f"{name_a} and {name_b} are identical: all activations agree to the last bit."
    return (
        f"All activations of {name_a} and {name_b} agree to the last bit, but not what follows. {_predictions(outputs)}"
    )


def _nearly_equal(differences: Elementwise, name_a: str, name_b: str) -> list[str]:
    """Say from which site on two versions of one model differ by more than rounding."""
    sites, outputs = [site for site in differences.sites if site.has_numbers], differences.outputs
    broken = [site for site in differences.sites if not site.has_numbers]
    first = next((site for site in sites if site.differs), None)
    worst = max(sites, key=lambda site: site.relative_error)
    both, every = f"{name_a} and {name_b}", "" if broken else "all "
    most = two_digits(worst.relative_error)
    count = "1 site" if len(sites) == 1 else f"{every}{len(sites)} sites"
    words = f"{both} are alike to within rounding at {count} (relative error up to {most})."
    if first is not None:
        place = sites.index(first)
        until = f"are alike to within rounding up to {sites[place - 1].name} and " if place else ""
        words = (
            f"{both} {until}differ from {first.name} on: relative error {two_digits(first.relative_error)}, where "
            f"rounding alone makes {two_digits(first.noise)}; the largest is {most}, at {worst.name}."
        )
    without = f"At {_named(broken)}, activations of at least one of them are NaN or infinite." if broken else ""
    return [words, without, "" if outputs is None else _predictions(outputs)]


def _named(sites: Sequence[SiteDifference]) -> str:
    """Return the names of pairs of sites, of more than two the first and how many more there are."""
    if len(sites) > 2:
        return f"{sites[0].name} and {len(sites) - 1} other sites"
    return " and ".join(site.name for site in sites)


def _predictions(outputs: OutputDifference) -> str:
    if not math.isfinite(outputs.kl):
        return "Their predictions are NaN."
    kl, high = two_digits(outputs.kl), two_digits(outputs.kl_high)
    return f"Their predictions differ by {kl} nats (99.9th percentile {high})."


def _by_measure(rows: Sequence[dict[str, Any]], measure: Measure, subject: str, are_arrays: bool) -> str:
    """Say where two models are nearest and farthest by a measure, and where they are as far apart as the null."""
    finite = [row for row in rows if math.isfinite(row["dissimilarity"])]
    null = OF_SAMPLES if are_arrays else OF_TEXT
    if not finite:
        return f"{subject} have no value by {measure.label}: {rows[0]['note']}." if rows else ""
    missing = [row for row in rows if not math.isfinite(row["dissimilarity"])]
    every = "every layer with a value" if missing else "every layer"
    without = f"; {_places(missing)} {'has' if len(missing) == 1 else 'have'} no value" if missing else ""
    near, far = (choose(finite, key=lambda row: row["dissimilarity"]) for choose in (min, max))
    if len(finite) == 1:
        words = f"{_of_one(far, measure, subject, null)}{without}."
    elif max(map(abs, (near["dissimilarity"], far["dissimilarity"]))) < SAME:
        return f"{measure.label} is {measure.identical:g} at {every} to three digits{without}."
    elif with_interval(near) == with_interval(far):
        widest = max(finite, key=lambda row: row["stderr"] if math.isfinite(row["stderr"]) else -1.0)
        words = (
            f"{subject} are equally far apart at {every} ({measure.label} {with_interval(widest)}; "
            f"{_scale(finite, measure, null)}){without}."
        )
    else:
        words = (
            f"{subject} are most alike at {sites_in_words(near)} ({measure.label} {with_interval(near)}) and differ "
            f"most at {sites_in_words(far)} ({with_interval(far)}; {_scale([far], measure, null)})"
            f"{', with intervals that overlap' if _overlap(near, far) else ''}{without}."
        )
    unrelated = [row for row in finite if _is_as_far_as_the_null(row, measure)] if len(finite) > 1 else []
    if unrelated:
        unlike = f"cannot tell them from {null.what}{_because(unrelated, measure)}"
        words += f" At {_places(unrelated)}, {measure.label} {unlike}."
    directions = dict.fromkeys(_one_direction(row, measure) for row in (near, far))
    return " ".join(filter(None, [words, *directions]))


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether the intervals of two values overlap; False where either has none."""
    halves = [float(half_width(row["stderr"], row["n_units"])) for row in (one, other)]
    return bool(abs(one["value"] - other["value"]) <= sum(halves))


def _places(rows: Sequence[dict[str, Any]]) -> str:
    """Return the pairs of sites of rows, of many the first ones and how many more there are."""
    names, others = [*map(sites_in_words, rows[:NAMED])], len(rows) - NAMED
    if others > 0:
        names.append(f"{others} other {'pair' if others == 1 else 'pairs'} of layers")
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _of_one(row: dict[str, Any], measure: Measure, subject: str, null: Null) -> str:
    """Say whether two models are alike at their one pair of sites, as far as the interval tells, without a period."""
    half = float(half_width(row["stderr"], row["n_units"]))
    found = f"{with_interval(row)} ({_scale([row], measure, null)})"
    where = f"by {measure.label} at {sites_in_words(row)}"
    if abs(row["dissimilarity"]) < SAME:
        return f"{subject} are alike {where}: {found}"
    if not math.isfinite(half):
        return f"{subject} have no interval {where}, so whether they differ is unknown: {found}"
    is_alike, is_unrelated = abs(row["value"] - measure.identical) <= half, _is_as_far_as_the_null(row, measure)
    if is_alike and is_unrelated:
        words = f"{subject} may be identical or as different as {null.what}, within noise, {where}: {found}"
        return words + _because([row], measure)
    if is_alike:
        return f"{subject} are alike to within noise {where}: {found}"
    if is_unrelated:
        return f"{subject} are as different as {null.what}, within noise, {where}: {found}{_because([row], measure)}"
    return f"{subject} differ by more than noise {where}: {found}"


def _scale(rows: Sequence[dict[str, Any]], measure: Measure, null: Null) -> str:
    """Return the two values between which those of rows are seen, or the range of their nulls."""
    nulls = sorted(row["null"] for row in rows if math.isfinite(row["null"])) or [math.nan]
    ends = dict.fromkeys(map(_number, (nulls[0], nulls[-1])))
    return f"{measure.identical:g} is identical, {null.scores} {' to '.join(ends)}"


def _one_direction(row: dict[str, Any], measure: Measure) -> str:
    """Say that a site varies along little more than one direction, which decides the value there; empty if not."""
    shares = [(row.get(f"first_pc_{side}", math.nan), row[f"site_{side}"]) for side in ("a", "b")]
    share, site = max(shares, key=lambda pair: pair[0] if math.isfinite(pair[0]) else -1.0)
    if not share > MOST:
        return ""
    return f"At {site}, one direction has {share:.0%} of the variance and decides {measure.label}."


def _is_as_far_as_the_null(row: dict[str, Any], measure: Measure) -> bool:
    """Return whether the interval of the calibrated value holds 0, or that of the value the null if there is none.

    A value beyond the null counts, too.
    """
    if math.isfinite(row["calibrated_stderr"]):
        return bool(row["calibrated"] <= half_width(row["calibrated_stderr"], row["n_units"]))
    return bool(_short_of_the_null(row, measure) <= 0)  # False where either is missing


def _short_of_the_null(row: dict[str, Any], measure: Measure) -> float:
    """Return how far the interval of a value ends before the null, seen from identical models; else 0 or less."""
    before = (row["value"] - row["null"]) * math.copysign(1, measure.identical - row["null"])
    return float(before - half_width(row["stderr"], row["n_units"]))


def _because(rows: Sequence[dict[str, Any]], measure: Measure) -> str:
    """Return that nulls have noise, too, if an interval ends before its null; empty if none does."""
    return ", and the null is uncertain too" if any(_short_of_the_null(row, measure) > 0 for row in rows) else ""


def sites_in_words(row: dict[str, Any]) -> str:
    """Return the pair of sites of a row, or their one name."""
    return site_name(row["site_a"], row["site_b"])


def with_interval(row: dict[str, Any]) -> str:
    """Return the value of a row with half of its 95% interval; a dash if it has none."""
    if not math.isfinite(row["value"]):
        return "-"
    return f"{row['value']:z.3f}{plus_minus(row['stderr'], row['n_units'])}"


def _number(value: float) -> str:
    return f"{value:z.3f}" if math.isfinite(value) else "nothing"


ROUNDING = (
    f"A layer differs if its relative error is more than {MARGIN:g} times that of rounding: of float32 arithmetic, or "
    "of weights rounded to the precision of the files."
)
"""What `alike to within rounding` means, for summaries."""
