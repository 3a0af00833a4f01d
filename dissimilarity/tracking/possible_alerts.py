"""Whether a rule could ever raise an alert on a probe set; one that cannot is refused before training starts.

Which values have an error bar is the instrument's own answer: measures evaluate noise, cut and read as the probe set
says. A measure that has no error there has none on any model.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import torch

from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import Plan
from dissimilarity.inference.coverage import FEWEST_REFERENCES
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.alignment import Alignment
from dissimilarity.tracking.alerts import Collapse, Move, Nearest, Rule
from dissimilarity.tracking.probe_reader import ProbeReader, ReferenceInputs
from dissimilarity.tracking.references import Source

SITE = "noise"
"""Where the noise is read."""
WIDTH = 3
"""Features of the noise; with more of them, an error bar takes more samples."""
POSITIONS = 64
"""Positions of a sequence of the noise where only models know how many their sites have."""


def check_possible(
    rules: Sequence[Rule], sources: Mapping[str, Source], reader: ProbeReader, groups: Mapping[str, Sequence[str]]
) -> None:
    """Check that each rule could raise an alert.

    Args:
        rules: the rules.
        sources: references by label.
        reader: the probe set, and the measures on it.
        groups: labels of references by group.

    Raises:
        ValueError: nothing is measured that a rule looks at, or nothing that it looks at has an error bar.
    """
    if not rules:
        return
    if not (sources and reader.inputs[0].measures):
        lacking = "references" if reader.inputs[0].measures else "measures"
        raise ValueError(f"alerts check what a tick measures, and without {lacking} that is nothing; pass some")
    staying = [label for label, source in sources.items() if source != "previous"]
    small = [label for labels in groups.values() if len(labels) < FEWEST_REFERENCES for label in labels]

    @cache
    def reason(number: int, measure: int) -> str:
        return _without_error(reader.inputs[number], reader.inputs[0].measures[measure])

    def missing(labels: Sequence[str], enough: Callable[[Iterable[str]], str]) -> str:
        """Return why no measure has error bars, where `enough` sums up the reasons against the references."""
        measures = range(len(reader.inputs[0].measures))
        return _least(enough(reason(reader.number(label), measure) for label in labels) for measure in measures)

    for rule in rules:
        problem = ""
        if isinstance(rule, Move) and not staying:
            raise ValueError("alerts: move needs a reference that stays the same, such as init; previous does not")
        if isinstance(rule, Move):
            problem = missing(staying, _least)
        elif isinstance(rule, Nearest) and small:
            problem = missing(small, _most)
        elif isinstance(rule, Collapse):
            problem = _rank_without_error(reader.inputs[0].plan)
        if problem:
            raise ValueError(f"alerts: {rule.name} needs error bars, {problem}")


def _least(reasons: Iterable[str]) -> str:
    """Return the first of several reasons, or none if one of them is empty."""
    first = ""
    for reason in reasons:
        if not reason:
            return ""
        first = first or reason
    return first


def _most(reasons: Iterable[str]) -> str:
    """Return the first of several reasons that is not empty, or none."""
    return next(filter(None, reasons), "")


def _without_error(inputs: ReferenceInputs, measure: Measure) -> str:
    """Return why a measure has no error bar on its inputs; empty if it has one."""
    labels = [own.label for own in inputs.measures]
    if measure.label not in labels:
        return "and " + next(record["note"] for record in inputs.records if record["measure"] == measure.label)
    x, note = _noise(inputs.plan, 0), ""
    for shared in (0.0, 0.9):  # some measures are undefined for independent sides, others for near ones
        y = _noise(inputs.plan, 1, shared)
        (record,) = compare_pair(x, y, [(SITE, SITE)], [measure], nulls=0, first_components=False, p_values=False)
        if math.isfinite(record["stderr"]):
            return ""
        note = note or record["note"].partition("; ")[0]
    return _reason(inputs.plan, note)


def _rank_without_error(plan: Plan) -> str:
    """Return why effective ranks have no error bar; empty if they have one."""
    record = next(record for record in _noise(plan, 0).intrinsic if record["measure"] == "rankme")
    if math.isfinite(record["stderr"]):
        return ""
    return _reason(plan, f"the effective rank has {record['note']}")


def _reason(plan: Plan, note: str) -> str:
    if plan.probe.n_units == 1:
        return "which n_units=1 turns off; leave n_units out"
    return f"and {note}"


def _noise(plan: Plan, seed: int, shared: float = 0.0) -> ModelActivations:
    """Return the activations of a model whose features are noise, a part of which all seeds share."""
    probe = plan.probe
    sequences, length = probe.extent
    if isinstance(probe.inputs, Alignment):
        length = probe.inputs.units
    elif probe.mask is not None:
        length = probe.mask.shape[1]
    elif length == 1:
        length = POSITIONS
    own, common = (
        torch.randn(sequences, length, WIDTH, generator=torch.Generator().manual_seed(number)) for number in (seed, 2)
    )
    values = (1 - shared) * own + shared * common
    if probe.control.drop_top_norm:  # for all of them the same positions
        countable = common[:, probe.control.positions(length)]
        plan = plan.with_positions(probe.remaining_positions({SITE: countable.norm(dim=-1)}))
    read = plan.reader([SITE])
    chunks = [
        (
            {site: read(site, values[start:stop], slice(start, stop)) for site in plan.captured([SITE])},
            range(unit, unit + 1),
        )
        for start, stop, unit in plan.slices
    ]
    return ModelActivations(plan, [SITE], chunks).summed()
