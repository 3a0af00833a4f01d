"""Why a measure has no value, no standard error, or one that is biased; and what to do."""

from jaxtyping import Float
from torch import Tensor

from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.side import Side

SAMPLES_PER_DIMENSION = 10
"""Samples per dimension below which the map between two sides fits noise: values are biased by about one in these."""

MOST_BROKEN = 0.05
"""Share of samples that the null takes out of their sequences, beyond which unrelated models look related."""

CROSSFIT_UNITS = 8
"""Units below which cross-fitted values have no standard error: with 3 of them it would be half of the true one.

The influence of a unit misses what it has in common with the few others of its half.
"""

BETWEEN = "; "
"""What stands between the notes of a row."""


def joined(*notes: str) -> str:
    """Return notes as one, without those that are empty."""
    return BETWEEN.join(filter(None, notes))


def samples_of(measure: Measure, side: Side, site: str) -> int:
    """Return how many samples a measure reads."""
    if isinstance(measure, SampleMeasure):
        return len(side.subset(site, measure.max_samples, measure.seed).index)
    return side.n


def too_few(measure: Measure, side: Side, site: str) -> str:
    """Return the note for too few samples or sequences; empty if there are enough."""
    n, sequences = samples_of(measure, side, site), len(side.lengths.units)
    if n < measure.minimum_samples:
        return f"{measure.label} has {n} samples and needs {measure.minimum_samples}: pass more or longer sequences"
    if measure.crossfit and side.lengths.n_units < 2:
        return f"{measure.label} needs 2 units of sequences, one per half, and has 1: pass more sequences"
    if measure.by_sequence and sequences < measure.minimum_samples:
        return (
            f"{measure.label} has {sequences} sequences and needs {measure.minimum_samples}: pass more sequences, or "
            "take the measure with units='sample'"
        )
    return ""


def too_few_units(side: Side) -> str:
    """Return why nothing on a probe set has a standard error, and what to do; empty if there are enough units."""
    sequences = len(side.lengths.units)
    return "" if sequences >= 4 else f"it needs 4 sequences in 2 units and has {sequences}: pass more"


def without_error(measure: Measure, side: Side, influence: Float[Tensor, " units"]) -> str:
    """Return why a value has no standard error, and what to do; empty if it has one, or none was asked for."""
    lengths, sequences = side.lengths, len(side.lengths.units)
    if few := too_few_units(side):
        return few
    if side.n_units == 1 or bool(influence.isfinite().all()):
        return ""
    if measure.crossfit and lengths.n_units < CROSSFIT_UNITS:
        return (
            f"a cross-fitted value needs {CROSSFIT_UNITS} units and has {lengths.n_units}: pass more sequences, and "
            "leave n_units out"
        )
    left = sequences - int(side.units.bincount().max())
    if measure.by_sequence and left < measure.minimum_samples:
        return f"without one unit {left} sequences are left, and it needs {measure.minimum_samples}: pass more"
    if isinstance(measure, SampleMeasure):
        return "without some of its units too few samples are left: pass more sequences"
    return "its derivative with respect to the samples is not finite"


def without_calibrated(measure: Measure, null: float, has_error: bool) -> str:
    """Return why there is no calibrated value, where null and identical models may be the same.

    Args:
        measure: the measure.
        null: its null.
        has_error: whether the null has a standard error.
    """
    why = f"its null, {null:.4g}, cannot be told apart from the value of identical models, {measure.identical:g}"
    if not has_error:
        why = f"its null, {null:.4g}, has no standard error"
    return f"{measure.label} has no calibrated value: {why}: pass more sequences"


def broken_up(measure: Measure, share: float) -> str:
    """Return the note for a null that takes a share of the samples out of their sequences."""
    return (
        f"{measure.label} has no calibrated value: sequences have so few positions in common that the null takes "
        f"{share:.0%} of samples out of theirs, and unrelated models would look related: pass more sequences, or "
        "sequences of equal length, or take p with nulls=20"
    )


def agreeing(measure: MomentMeasure, forced: int, directions: int, n: int) -> str:
    """Return the note for a value that is that of identical models in some directions whatever the data."""
    return (
        f"{measure.label} says {'nothing' if forced == directions else 'little'} about the models: in any {n} samples, "
        f"{forced} of {directions} directions agree, so pass more samples"
    )


def without_null(measure: Measure, most: int, n: int) -> str:
    """Return the note for a null that cannot be, because one sequence has most of the samples."""
    return f"{measure.label} has no null: {most} of its {n} samples are from one sequence: split it, or pass more"


def without_p(measure: Measure) -> str:
    """Return the note for a missing p value, where no sequences can exchange places."""
    return (
        f"{measure.label} has no p value: too few sequences of similar length share positions at which they could "
        "exchange places: pass more"
    )


def overfitted(measure: MomentMeasure, n: int, width: int) -> str:
    """Return the note for a map that is scored on the few samples that it was fitted to; empty where there is none."""
    if not measure.fits_map or measure.crossfit or n >= SAMPLES_PER_DIMENSION * width:
        return ""
    return (
        f"{measure.label} is biased toward similar: {n} samples are fewer than {SAMPLES_PER_DIMENSION} for each of "
        f"{width} dimensions, so pass more samples, or compare cross-fitted values"
    )
