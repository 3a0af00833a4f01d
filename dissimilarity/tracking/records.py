"""Records of a tick that have no value, and the records of several processes as one."""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.evaluate import pairs_of
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.moments.cross import SitePair

log = logging.getLogger(__name__)

ALONE = ("site", "measure", "value", "stderr", "n_units")
"""Columns of a measure of one model alone."""
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
NO_SAMPLES = {"n_samples": 0, "n_units": 0}
NO_VALUE = {
    **dict.fromkeys(("value", "dissimilarity", "stderr", "null", "calibrated", "calibrated_stderr"), math.nan),
    "influence": (),
}


def without_value(measures: Iterable[Measure], pairs: Sequence[SitePair], note: str) -> list[dict[str, Any]]:
    """Return records of one reference, one per curve, with a note that says why there is no value."""
    return [
        {"measure": m.label, "site_a": a, "site_b": b, **NO_VALUE, **NO_SAMPLES, "note": note}
        for m in measures
        for a, b in pairs_of(m, pairs)
    ]


def agreed(records: list[dict[str, Any]], sync: bool) -> list[dict[str, Any]]:
    """Return the records of this process, without values that another process could not compute.

    Args:
        records: records of one reference.
        sync: whether there are other processes.

    Returns:
        The records; in place of such a value stands the other process's note.

    Examples:
        >>> agreed([{"measure": "cka", "site_a": "a", "site_b": "a", "value": 0.5, "note": ""}], sync=False)
        [{'measure': 'cka', 'site_a': 'a', 'site_b': 'a', 'value': 0.5, 'note': ''}]
    """
    notes = {_curve(record): record["note"] for record in records if math.isnan(record["value"])}
    other_notes: dict[tuple[str, str, str], str] = {}
    for rank, rank_notes in enumerate(gathered(notes, sync)):
        for curve, note in rank_notes.items():
            other_notes.setdefault(curve, f"process {rank}: {note}")
    for record in records:
        if not math.isnan(record["value"]) and _curve(record) in other_notes:
            record |= NO_VALUE | {"note": other_notes[_curve(record)]}
    return records


def measured_alone(step: int, sides: Sequence[tuple[str, ModelActivations, ModelActivations]]) -> list[dict[str, Any]]:
    """Return the records of the measures of the model and of each reference alone; all processes take part.

    Args:
        step: step of the tick.
        sides: label of a reference, activations of the model, activations of the reference.
    """
    try:
        with together(any(model.side.sync for _, model, _ in sides)):
            for side in (side for _, *pair in sides for side in pair):
                side.share()
            return [
                {"step": step, "reference": label, "of": name, **{key: record[key] for key in ALONE}}
                for label, model, reference in sides
                for name, side in (("model", model), ("reference", reference))
                for record in side.intrinsic
            ]
    except Exception as error:
        log.warning("step %d: no intrinsic measures: %s", step, described(error))
        return []


def kinds_of_notes(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the notes of records that differ in more than the measure and numbers, with a reference each.

    Args:
        records: records with reference, measure and note.

    Returns:
        Kind of a note -> label of the first reference that has it, and the note with all measures that have it.

    Examples:
        >>> at = {"reference": "init", "site_a": "embed", "site_b": "embed"}
        >>> notes = {"cka": "cka has 3 samples", "svcca": "svcca has 4 samples", "rsa": ""}
        >>> kinds_of_notes({**at, "measure": measure, "note": note} for measure, note in notes.items())
        {' has # samples': ('init', 'cka has 3 samples (so for svcca)')}
        >>> list(kinds_of_notes([{**at, "measure": "cca", "note": "cca is biased; cca has no calibrated value"}]))
        [' is biased', ' has no calibrated value']
    """
    kinds: dict[str, tuple[str, str, dict[str, None]]] = {}
    for record in records:
        measure = record["measure"]
        # a record may have several notes, each with the name of its measure
        for note in filter(None, re.split(f"; (?={re.escape(measure)} )", record["note"])):
            kinds.setdefault(kind_of(note, measure), (record["reference"], note, {}))[2][measure] = None
    return {
        kind: (reference, note + (f" (so for {', '.join(others)})" if (others := list(measures)[1:]) else ""))
        for kind, (reference, note, measures) in kinds.items()
    }


def kind_of(note: str, measure: str = "") -> str:
    """Return what notes of one kind have in common: all but the measure that they begin with and numbers.

    Examples:
        >>> kind_of("cka has 3 samples", "cka")
        ' has # samples'
    """
    return NUMBER.sub("#", note.removeprefix(measure))


def effective_ranks(model: ModelActivations) -> list[dict[str, Any]]:
    """Return the records of the effective rank of each site of the model; none if they cannot be computed."""
    try:
        with together(model.side.sync):
            model.share()
            return [record for record in model.intrinsic if record["measure"] == "rankme"]
    except Exception as error:
        log.warning("no effective ranks: %s", described(error))
        return []


def described(error: Exception) -> str:
    """Return an error as a note.

    Examples:
        >>> described(ValueError("no samples"))
        'ValueError: no samples'
    """
    return f"{type(error).__name__}: {error}"


def advice(note: str) -> str:
    """Return what to do about a record without a value, if its note does not say it.

    Examples:
        >>> advice('Module [Net] is missing the required "forward" function')
        ' (the tracker calls the module with the probe set: define `forward`)'
    """
    if 'missing the required "forward"' in note:
        return " (the tracker calls the module with the probe set: define `forward`)"
    return ""


def _curve(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["measure"], record["site_a"], record["site_b"]
