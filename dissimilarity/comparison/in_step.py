"""Compare two models larger than memory: both run block by block, and each pair of sites is compared as they pass it.

Only sites at equal relative depth are paired, because a pair needs both of its activations at one time.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor, nn

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import LOGITS
from dissimilarity.comparison.compare import check_influence, computable_on, records_of, table_of
from dissimilarity.comparison.elementwise import Differences, predictions_of
from dissimilarity.comparison.plan import Plan, make_plan
from dissimilarity.comparison.saved import (
    SavedActivations,
    Source,
    array_reader,
    fitted_to_sources,
    open_source,
    sites_of,
)
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.probe.alignment import Alignment, Reading
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.probe.rearrangement import check_nulls
from dissimilarity.probe.sampling import sampled_positions
from dissimilarity.probe.steps import Steps, groups_of


def compare_in_step(
    a: Source,
    b: Source,
    tokens: Tensor | Alignment,
    sites: str | Sequence[str] | None,
    measures: Sequence[Measure],
    nulls: int = 1,
    influence: bool = False,
    differences: Differences | None = None,
) -> pa.Table:
    """Compare two models as `compare` does at matched pairs of sites, with the activations of one block at a time.

    Args:
        a: the first model, or saved activations.
        b: the second.
        tokens: what they read.
        sites: globs or names of sites, on both sides.
        measures: the measures.
        nulls: number of rearrangements of the null.
        influence: whether to compute which text differs.
        differences: collects differences element by element, of models of the same sizes that read the same tokens.

    Raises:
        ValueError: as `compare`.
        NotInStepsError: a model does not run block by block.
    """
    check_nulls(nulls)
    if influence:
        check_influence(measures, ProbeSet(tokens))
    source_a, source_b = open_source(a, "a"), open_source(b, "b")
    probe = fitted_to_sources(ProbeSet(tokens), source_a, source_b)
    pairs = matched_pairs(sites_of(source_a, sites, probe.inputs_a), sites_of(source_b, sites, probe.inputs_b))
    computable, records = computable_on(probe, measures)
    of_sites = [measure for measure in computable if not isinstance(measure, OutputMeasure)]
    of_outputs = [measure for measure in computable if isinstance(measure, OutputMeasure)]
    assert isinstance(probe.inputs_a, (Tensor, Reading)) and isinstance(probe.inputs_b, (Tensor, Reading))
    last = torch.empty(0), torch.empty(0)
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(_Passing(source, inputs, [pair[place] for pair in pairs]))
            for place, (source, inputs) in enumerate([(source_a, probe.inputs_a), (source_b, probe.inputs_b)])
        )
        for number, (x, y) in enumerate(pairs):
            acts_a, acts_b = one.at(x), other.at(y)
            later, last = pairs[number + 1 :], (acts_a, acts_b)
            one.forget({x for x, _ in later})
            other.forget({y for _, y in later})
            if differences is not None:
                differences.add((x, y), acts_a, acts_b)
            sides = _saved(x, acts_a), _saved(y, acts_b)
            plan = make_plan(probe, of_sites)
            records += records_of(sides[0], sides[1], [(x, y)], of_sites, plan, nulls, influence)
        if of_outputs or differences is not None:
            plan = make_plan(probe, of_outputs) if of_outputs else None
            logits = _outputs(one, other, plan, differences)
            if plan is not None and logits is not None:
                (x, y), (one_side, other_side) = pairs[-1], last
                sides = _saved(x, one_side, logits[0]), _saved(y, other_side, logits[1])
                records += records_of(sides[0], sides[1], [(x, y)], of_outputs, plan, nulls, influence)
    return table_of(records, pairs, measures, influence)


@dataclass
class _Passing:
    """One side of a comparison, which passes its sites in depth order.

    Attributes:
        source: a model, or saved activations.
        inputs: what the model reads.
        sites: the sites that are read.
        waiting: activations that are yet to be compared.
    """

    source: nn.Module | SavedActivations
    inputs: Tensor | Reading
    sites: list[str]
    waiting: dict[str, Tensor] = field(default_factory=dict)

    def __enter__(self) -> "_Passing":
        self.groups = groups_of(self.inputs)
        self._stack = ExitStack()
        if isinstance(self.source, nn.Module):
            self.steps = Steps(self.source, self.groups, list(dict.fromkeys(self.sites)))
            self._stack.enter_context(self.steps.attached())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def at(self, site: str) -> Tensor:
        """Return the activations of all sequences at a site, after running the model up to there.

        Raises:
            RuntimeError: the model does not pass the site.
        """
        if isinstance(self.source, SavedActivations):
            return self.source.sequences(site, [(0, len(self.inputs))], len(self.inputs))
        while site not in self.waiting:
            if self.steps.has_ended:
                raise RuntimeError(f"the forward pass did not reach {site}; choose another site")
            self.waiting |= self._joined(self.steps.step())
        return self.waiting[site]

    def forget(self, needed: set[str]) -> None:
        """Drop the activations that are not needed any more."""
        self.waiting = {site: acts for site, acts in self.waiting.items() if site in needed}

    def logits(self) -> Iterator[Tensor | None]:
        """Yield the logits of one group of sequences after another; None for a model without logits."""
        if isinstance(self.source, SavedActivations):
            self.source.check_logits([LOGITS])
            for places, _ in self.groups:
                part = [(int(places[0]), int(places[-1]) + 1)]
                yield self.source.sequences(LOGITS, part, len(self.inputs))
            return
        yield from map(predictions_of, self.steps.results())

    def _joined(self, groups: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the activations of all groups in the order of the probe set, at the positions that are compared."""
        index = torch.cat([places for places, _ in self.groups]).argsort()
        joined = {}
        for site in list(groups[0]):
            parts = [acts.pop(site) for acts in groups]
            if isinstance(self.inputs, Reading):
                places = [places.tolist() for places, _ in self.groups]
                parts = [
                    self.inputs.part(rows).units(part, slice(None)) for rows, part in zip(places, parts, strict=True)
                ]
            joined[site] = torch.cat(parts)[index.to(parts[0].device)]
        return joined


def _saved(site: str, acts: Tensor, logits: Tensor | None = None) -> tuple[SavedActivations, None, list[str]]:
    """Return activations, and logits where measures read them, as one side of a comparison of saved activations."""
    arrays = {site: array_reader(acts)} | ({} if logits is None else {LOGITS: array_reader(logits)})
    return SavedActivations(site, arrays, None), None, [site]


def _outputs(
    one: _Passing, other: _Passing, plan: Plan | None, differences: Differences | None
) -> tuple[Tensor, Tensor] | None:
    """Subtract the logits of two models, and return those at the positions that output measures read.

    Raises:
        ValueError: an output measure, and a model without logits.
    """
    first, second = one.logits(), other.logits()
    # No name here holds logits, which are larger than all activations: one group's are gone before the next one's come.
    parts = [_outputs_of_group(next(first), next(second), plan, differences) for _ in one.groups]
    samples = [part for part in parts if part is not None]
    return (torch.cat([a for a, _ in samples]), torch.cat([b for _, b in samples])) if samples else None


def _outputs_of_group(
    logits_a: Tensor | None, logits_b: Tensor | None, plan: Plan | None, differences: Differences | None
) -> tuple[Tensor, Tensor] | None:
    """Subtract the logits of a group of sequences, and return copies at the positions that output measures read."""
    if logits_a is None or logits_b is None:
        if plan is None:
            return None
        missing = "first" if logits_a is None else "second"
        raise ValueError(
            f"the {missing} model has no head that predicts the next token, or it is not loaded; leave measures of "
            "outputs, such as kl, out"
        )
    if differences is not None:
        differences.add_outputs(logits_a, logits_b)
    if plan is None:
        return None
    positions = sampled_positions(*plan.probe.extent, plan.max_samples)
    return logits_a[:, positions], logits_b[:, positions]
