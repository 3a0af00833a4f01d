"""The references of a tracker while it tracks: their activations, or why there are none."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.moments.agreement import together
from dissimilarity.moments.cross import SitePair
from dissimilarity.tracking.records import described
from dissimilarity.tracking.reference_store import ReferenceStore
from dissimilarity.tracking.references import Source, as_module, is_own
from dissimilarity.tracking.schedule import Thinned, previous_step, previous_steps
from dissimilarity.tracking.training_state import TrainingState

log = logging.getLogger(__name__)

SAME = 0.01
"""Relative difference of the same activations on two machines, at most."""


class TrackedReferences:
    """The references of one training by label. The source of a reference, never its label, decides what it is.

    Args:
        sources: label -> state of the model, URI or module.
        patterns: sites, as in the tracker.
        load: turns a URI into a module.
        store: files of activations.
        every: steps between ``previous`` and the model after the dense start.

    Attributes:
        sites: sites of the model in training.
        states: activations of its earlier states, by step.
        lost: steps whose state should be known, and could not be read.
        faults: why a reference has no activations, by label.
        marks: numbers by which a continuation recognizes frozen references, by label and site.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        patterns: str | Sequence[str],
        load: Callable[[str], nn.Module] | None,
        store: ReferenceStore,
        every: int,
    ) -> None:
        self.sources, self.patterns, self.load, self.store, self.every = sources, patterns, load, store, every
        self.sites: list[str] = []
        self.states: dict[int, ModelActivations] = {}
        self.lost: set[int] = set()
        self.faults: dict[str, str] = {}
        self.marks: dict[str, dict[str, list[float]]] = {}
        self._saved_steps: set[int] = set()
        self._held: dict[int, set[int]] = {}
        self._frozen: dict[str, ModelActivations] = {}
        self._frozen_sites: dict[str, list[str]] = {}

    @property
    def has_previous(self) -> bool:
        """Whether earlier states other than ``init`` are compared."""
        return "previous" in self.sources.values()

    def models(self, model: nn.Module) -> Iterator[tuple[str | None, nn.Module, list[str]]]:
        """Yield label, model and sites of the model in training (label None) and of each frozen reference."""
        yield None, model, self.sites
        for label, source in self.sources.items():
            if not is_own(source):
                reference = as_module(source, self.load, model)
                yield label, reference, self._sites_of(label, reference)

    def read_frozen(self, training: TrainingState) -> None:
        """Read the references that are not states of the model; one that cannot run has a fault.

        Where training continues, the first process warns of those that are no longer the same.

        Raises:
            ValueError: one cannot be loaded, or has no site in common with the model.
        """
        before, self.marks = self.marks if training.step and training.is_first else {}, {}
        for number, (label, source) in enumerate(self.sources.items()):
            if is_own(source):
                continue
            model = as_module(source, self.load, training.model)
            sites = self._frozen_sites[label] = self._sites_of(label, model)
            if label in self.faults:
                continue
            try:
                with together(training.sync):
                    self._frozen[label] = self.store.read_frozen(training, label, number, model, sites)
                    self.marks[label] = _marks(self._frozen[label])
            except Exception as error:
                self.faults[label] = described(error)
                continue
            if not _are_same(before.get(label, {}), self.marks[label]):
                log.warning(
                    "reference %s differs from that of the checkpoint, so values before and after it cannot be "
                    "compared; pass the same model, or continue in another folder",
                    label,
                )

    def clear(self) -> None:
        """Forget the states of another training."""
        self.states.clear()
        self.lost.clear()
        self._saved_steps.clear()
        self._held.clear()

    def forget_after(self, step: int) -> None:
        """Forget states that are later than the model."""
        self.states = {state: acts for state, acts in self.states.items() if state <= step}
        self.lost = {state for state in self.lost if state <= step}
        self._saved_steps = {state for state in self._saved_steps if state <= step}
        self._held = {held: states for held, states in self._held.items() if held <= step}

    def state_dict(self) -> dict[str, Any]:
        """Return the steps of earlier states, of those that are lost, and the marks of frozen references."""
        states, held = (
            sorted({*self.states, *self._saved_steps}),
            [[step, sorted(at)] for step, at in self._held.items()],
        )
        return {"states": states, "held": held, "lost": sorted(self.lost), "frozen": self.marks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.states.clear()
        self._saved_steps, self.lost = set(state["states"]), set(state.get("lost", ()))
        self.marks = state.get("frozen", {})
        self._held = {step: set(states) for step, states in state.get("held", ())}

    def recall(self, training: TrainingState, first: int, thinned: Thinned | None) -> list[str]:
        """Read the earlier states of the model that a continued training needs; return why those compared cannot be.

        A step that was skipped is listed under the later step that stands in for it. Nothing is known of steps after
        the last one listed, as in a checkpoint saved without the tracker.

        Args:
            training: state of the training.
            first: the first step whose tick is to come.
            thinned: what is left of the schedule.
        """
        compared = previous_steps(first, self.every, training.last_step, thinned)
        steps = self._saved_steps | self._always
        if self.has_previous:
            # if training was to end at this step, its tick did not keep it
            unlisted = previous_steps(first, self.every, None, thinned) | (compared & {training.step})
            steps |= {step for step in unlisted if step > max(self._saved_steps | self.lost, default=-1)}
        self._saved_steps = set()
        faults = []
        for step in sorted(steps):
            try:
                with together(training.sync):
                    self._state(training, step)
            except Exception as error:
                self.lost.add(step)
                faults += [described(error)] if step in compared or step in self._always else []
        return faults

    def activations(self, training: TrainingState, label: str) -> tuple[int, ModelActivations]:
        """Return the step and the activations of a reference; -1 for another model.

        Those of ``init`` and ``previous`` are read as the model was. Where a training ends between two ticks, or its
        steps pass over one, no state was kept for that; ``previous`` is then the nearest one that was.

        Raises:
            ValueError: the earlier state is unknown, or it or the nearest one that was kept is lost.
        """
        source = self.sources[label]
        if not is_own(source):
            return -1, self._frozen[label]
        step = self.step_of(label, training.step)
        try:
            return step, self._state(training, step)
        except Exception:
            kept = self.states.keys() | self.lost
            nearest = min(sorted(kept), key=lambda other: abs(other - step), default=step)
            if source == "init" or nearest not in self.states:
                raise
            return nearest, self.states[nearest]

    def step_of(self, label: str, step: int) -> int:
        """Return the step of the reference that belongs to a tick; -1 for another model."""
        source = self.sources[label]
        return -1 if not is_own(source) else 0 if source == "init" else previous_step(step, self.every)

    def is_known(self, label: str, step: int) -> bool:
        """Return whether the reference of a tick is in memory; earlier states are forgotten after their last tick."""
        return not is_own(self.sources[label]) or self.step_of(label, step) in self.states

    def forget(self, step: int) -> None:
        """Forget the states of the model that no tick after a step compares, also those that are lost."""
        first = previous_step(step + 1, self.every)
        # the first tick after the dense start compares step 0
        needed = self._always | ({0} if step < self.every else set())
        self.states = {state: acts for state, acts in self.states.items() if state in needed or state >= first}
        self.lost = {state for state in self.lost if state in needed or state >= first}
        self._held[step] = set(self.states)

    def is_needed(self, state: int, checkpoint: int) -> bool:
        """Return whether a state was in memory at a checkpoint, before or after a tick there, as far as is known."""
        held = [self._held.get(step) for step in self._held_at(checkpoint)]
        return state <= checkpoint and any(states is None or state in states for states in held)

    def keep_held(self, checkpoints: Collection[int]) -> None:
        """Forget which states were in memory, but at some checkpoints and at one that is not known yet."""
        needed = {step for checkpoint in checkpoints for step in self._held_at(checkpoint)} | {*sorted(self._held)[-3:]}
        self._held = {step: states for step, states in self._held.items() if step in needed}

    def _held_at(self, checkpoint: int) -> list[int]:
        """Return the last steps before and up to a checkpoint after which it is known what was in memory, or -1."""
        return [max((step for step in self._held if step <= last), default=-1) for last in (checkpoint - 1, checkpoint)]

    def labels(self, training: TrainingState) -> list[str]:
        """Return the labels of the references of a tick: at step 0, there is no ``previous``."""
        return [label for label, source in self.sources.items() if source != "previous" or training.step]

    def matched(self, label: str) -> list[SitePair]:
        """Return the pairs of sites of the model and of a reference at equal depth."""
        return matched_pairs(self.sites, self._frozen_sites.get(label, self.sites))

    def _sites_of(self, label: str, reference: nn.Module) -> list[str]:
        """Return the sites of a frozen reference.

        Raises:
            ValueError: it has none, or none in common with the model.
        """
        try:
            sites = resolve(reference, self.patterns, self.store.reader.length_for(label))
            matched_pairs(self.sites, sites)
        except ValueError as error:
            raise ValueError(f"reference {label!r}: {error}") from error
        return sites

    @property
    def _always(self) -> set[int]:
        """Steps whose states every tick compares."""
        return {0} if "init" in self.sources.values() else set()

    def _state(self, training: TrainingState, step: int) -> ModelActivations:
        """Return the model as it was at a step, from memory, files or the checkpoint of that step."""
        if step not in self.states:
            reader = self.store.reader
            if step == training.step:
                self.states[step] = reader.read(training, training.model, self.sites, reader.inputs[0])
            else:
                self.states[step] = self.store.recall(training, step, self.sites)
        return self.states[step]


def _marks(activations: ModelActivations) -> dict[str, list[float]]:
    """Return numbers of the first samples by site, which no rotation of the features changes."""
    marks = {}
    for site, values in next(iter(activations.chunks))[0].items():
        first = values.flatten(0, -2)[:8].float().nan_to_num().cpu().double()
        marks[site] = (first @ first.mean(0)).tolist()
    return marks


def _are_same(before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> bool:
    """Return whether the marks of all common sites are the same, up to what another machine changes."""
    pairs = [(torch.tensor(before[site]), torch.tensor(now[site])) for site in before.keys() & now.keys()]
    return all(len(a) == len(b) and bool((a - b).norm() <= SAME * a.norm() + 1e-12) for a, b in pairs)
