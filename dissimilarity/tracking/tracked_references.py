"""The references of a tracker while it tracks: their activations, or why there are none."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from dissimilarity.capture.sites import matched_pairs, resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.moments.cross import SitePair
from dissimilarity.tracking.records import described
from dissimilarity.tracking.reference_store import ReferenceStore
from dissimilarity.tracking.references import Source, as_module, is_own
from dissimilarity.tracking.training_state import TrainingState


class TrackedReferences:
    """The references of one training by label. The source of a reference, never its label, decides what it is.

    Args:
        sources: label -> state of the model, URI or module.
        patterns: sites, as in the tracker.
        load: turns a URI into a module.
        store: files of activations.

    Attributes:
        sites: sites of the model in training.
        own: activations of its earlier states, ``init`` and ``previous``.
        measured: step of the last tick that was measured, which is that of ``previous``; None before the first one.
        faults: why a reference has no activations, by label.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        patterns: str | Sequence[str],
        load: Callable[[str], nn.Module] | None,
        store: ReferenceStore,
    ) -> None:
        self.sources, self.patterns, self.load, self.store = sources, patterns, load, store
        self.sites: list[str] = []
        self.own: dict[str, ModelActivations] = {}
        self.measured: int | None = None
        self.faults: dict[str, str] = {}
        self._frozen: dict[str, ModelActivations] = {}
        self._frozen_sites: dict[str, list[str]] = {}

    def __len__(self) -> int:
        """Return how many of them can be compared."""
        return len(self.own) + len(self._frozen)

    def models(self, model: nn.Module) -> Iterator[tuple[str | None, nn.Module, list[str]]]:
        """Yield label, model and sites of the model in training (label None) and of each frozen reference."""
        yield None, model, self.sites
        for label, source in self.sources.items():
            if not is_own(source):
                reference = as_module(source, self.load, model)
                yield label, reference, resolve(reference, self.patterns)

    def read_frozen(self, training: TrainingState) -> None:
        """Read the references that are not states of the model; one that cannot run has a fault.

        Raises:
            ValueError: one cannot be loaded, or has no site in common with the model.
        """
        for number, (label, source) in enumerate(self.sources.items()):
            if is_own(source):
                continue
            model = as_module(source, self.load, training.model)
            sites = self._frozen_sites[label] = resolve(model, self.patterns)
            matched_pairs(self.sites, sites)
            if label in self.faults:
                continue
            try:
                self._frozen[label] = self.store.read_frozen(training, label, number, model, sites)
            except Exception as error:
                self.faults[label] = described(error)

    def recall(self, training: TrainingState) -> dict[str, str]:
        """Read the states of the model that are compared and not in memory, and return why they cannot be, by label."""
        faults = {}
        for label, source in self.sources.items():
            if is_own(source):
                try:
                    self.activations(training, label)
                except Exception as error:
                    faults[label] = described(error)
        return faults

    def activations(self, training: TrainingState, label: str) -> ModelActivations:
        """Return the activations of a reference; those of ``init`` and ``previous`` are read as the model was.

        Raises:
            ValueError: the earlier state is lost or unknown.
        """
        source = self.sources[label]
        if not is_own(source):
            return self._frozen[label]
        if source not in self.own:
            self.own[source] = self._recalled(training, source)
        return self.own[source]

    def labels(self, training: TrainingState) -> list[str]:
        """Return the labels of the references of a tick: before the first one, there is no ``previous``."""
        is_first = not training.step and self.measured is None
        return [label for label, source in self.sources.items() if source != "previous" or not is_first]

    def matched(self, label: str) -> list[SitePair]:
        """Return the pairs of sites of the model and of a reference at equal depth."""
        return matched_pairs(self.sites, self._frozen_sites.get(label, self.sites))

    def _recalled(self, training: TrainingState, source: str) -> ModelActivations:
        """Return ``init`` or ``previous`` as it was, from the folder's files or the checkpoint of that step."""
        step = 0 if source == "init" else self.measured
        if step is None:
            raise ValueError("no tick before this one is known")
        if step == training.step:
            reader = self.store.reader
            return reader.read(training, training.model, self.sites, reader.inputs[0])
        return self.store.recall(training, source if source == "init" else f"{source}-{step}", step, self.sites)
