"""The core of the tracker: how far each layer of a model in training is from reference models."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dissimilarity.capture.sites import LOGITS, matched_pairs, resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batched_inputs import as_inputs
from dissimilarity.probe.outliers import NO_CONTROL, Control, control_of
from dissimilarity.probe.probe_set import Pool, ProbeSet
from dissimilarity.probe.site_layout import Channels
from dissimilarity.tracking import logger_keys
from dissimilarity.tracking import reference_groups as groups_of_references
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.models_on_probe import ProbeReader
from dissimilarity.tracking.records import OVER_BUDGET, advice, agreed, described, without_value
from dissimilarity.tracking.reference_store import ReferenceStore
from dissimilarity.tracking.references import OWN, as_module, named_references
from dissimilarity.tracking.schedule import is_due, progress
from dissimilarity.tracking.tables import Tables
from dissimilarity.tracking.ticker import Ticker
from dissimilarity.tracking.training_state import TrainingState
from dissimilarity.tracking.weights import step_weights

log = logging.getLogger(__name__)

# Share of the figures in the budget: about what one panel of curves and one heat map take.
PANEL_SECONDS = 0.13


class Tracker(Ticker):
    """Measurements, on a schedule, of how dissimilar the model in training is to reference models.

    Any module works whose ``forward`` takes the probe set; nothing else of it is needed but the names of its sites.
    Records go to ``folder/curves.jsonl`` and from there to ``folder/curves.parquet`` and ``folder/figures``. A fault in
    a tick leaves NaNs with a note and one warning; training continues. Records that cannot be written wait
    (``outbox``). With several processes, each captures its share of the probe set and the sums are added; if one
    process fails, all of them leave the comparison together.
    """

    def __init__(
        self,
        references: Sequence[str] | Mapping[str, str | nn.Module],
        measures: Sequence[Measure] | Mapping[str, Measure],
        probe: Any,
        folder: str | Path,
        *,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        every: int = 50,
        heatmap_every: int = 250,
        groups: int = 16,
        budget: float = 0.03,
        pool: Pool = "none",
        precision: str | None = None,
        tokens_per_step: int = 0,
        load: Callable[[str], nn.Module] | None = None,
        control: Control | Mapping[str, Any] = NO_CONTROL,
        align: Callable[[str], Alignment | None] = lambda name: None,
        mask: Tensor | None = None,
        reference_groups: Mapping[str, Sequence[str]] | None = None,
        channels: Channels = None,
    ) -> None:
        """Prepare the measurements; nothing is read before ``start``.

        Args:
            references: ``init`` (the model at step 0), ``previous`` (the model at the tick before), modules by name, or
                URIs that ``load`` turns into modules.
            measures: measures with different labels.
            probe: inputs to compare on: a tensor (sequences, ...), what a tokenizer returns, or a loader of batches of
                these; its ``attention_mask`` says where padding is, if ``mask`` does not.
            folder: folder of the tables and figures.
            sites: names or globs of sites, for the model and the references.
            every: steps between ticks, after the dense start of ``schedule``.
            heatmap_every: steps between ticks that compare all pairs of sites, not only those at equal depth.
            groups: number of jackknife units, each of whole sequences.
            budget: largest share of the training time for tracking; ticks past it are skipped, and the table says so.
            pool: ``none``: each position is a sample; ``mean``, ``first`` or ``last``: one sample per sequence.
            precision: precision of models on the probe set, a name of Lightning's; None for the one they train in.
            tokens_per_step: tokens per update, for the column ``tokens``.
            load: turns a URI into a module in eval mode.
            control: which positions count and how samples are scaled, or its values by name. The positions that
                ``drop_top_norm`` drops are fixed as training starts, by the references and the model.
            align: returns, for the label or URI of a reference with another tokenizer, the alignment of its tokens with
                the model's (``dissimilarity.align``), and None for any other reference.
            mask: real positions of the probe set, Bool (sequences, positions); the others are padding and ignored. An
                aligned reference needs none, because all of its units are real.
            reference_groups: name -> URIs or labels of references that behave alike, to see which of them the model
                drifts to (``dissimilarity.tracking.reference_groups``).
            channels: where features are at sites whose modules leave that open, as in ``ProbeSet``.
        """
        self.references = named_references(references)
        self.measures = list(measures.values()) if isinstance(measures, Mapping) else list(measures)
        self.control, self.folder = control_of(control), Path(folder)
        self.patterns, self.every, self.heatmap_every = sites, every, heatmap_every
        self.tokens_per_step, self.load = tokens_per_step, load
        aligned = {
            label: alignment
            for label, source in self.references.items()
            if (alignment := align(label) or (align(source) if isinstance(source, str) else None)) is not None
        }
        inputs, own_mask = as_inputs(probe)
        mask = own_mask if mask is None else mask
        probe_set = ProbeSet(inputs, mask, pool, control=self.control, n_units=groups, channels=channels)
        self.reader = ProbeReader(probe_set, aligned, self.measures, precision)
        self.groups = groups_of_references.labels_by_group(reference_groups or {}, self.references)
        weights_at = partial(step_weights, self.folder / "checkpoints")
        self.store = ReferenceStore(self.folder / "references", self.reader, weights_at)
        self.tables = Tables(self.folder, self.groups)
        self.budget = Budget(budget, closing=PANEL_SECONDS * len(self.references) * len(self.measures))
        self.activations: dict[str, ModelActivations] = {}
        self.sites: list[str] = []
        self.measured: int | None = None
        self._warned: set[str] = set()

    @property
    def share(self) -> float:
        """Share of the training time so far that tracking took."""
        return self.budget.taken

    @property
    def drift(self) -> dict[str, Any]:
        """Group of references that the model ended up nearest to, by measure; empty without groups."""
        return groups_of_references.drift_of(self.folder, self.groups)

    def start(self, training: TrainingState) -> None:
        """Read the references and continue the table."""
        if not training.step:  # also from a checkpoint of step 0, because its tick came later
            self.last_tick = self.measured = None
        self.budget.begin()
        with self.budget.charged():
            self.sites = resolve(training.model, self.patterns)
            with together(training.sync):
                if training.is_first:
                    self.tables.begin(training.step if training.step else -1)
            if self.control.drop_top_norm:
                path = self.folder / "references" / "positions.safetensors"
                self.reader.fix_positions(training, self._models(training.model), path)
            for label, source in self.references.items():
                if source not in OWN:
                    model = as_module(source, self.load)
                    sites = resolve(model, self.patterns)
                    matched_pairs(self.sites, sites)
                    self.activations[label] = self.store.read_frozen(training, label, model, sites)
                elif training.step:
                    try:
                        self._recall(training, label)
                    except Exception as error:  # the next tick tries again, and its records say why it cannot
                        log.warning("reference %s: %s", label, described(error))

    def is_due(self, step: int, last_step: int | None) -> bool:
        """Return whether there is a tick after ``step`` updates."""
        return is_due(step, self.every, last_step)

    def tick(self, training: TrainingState) -> dict[str, float]:
        """Measure, or record why not, and return the numbers for the loggers."""
        n_references = max(1, len(self.activations))
        kind = self._affordable_kind(training, n_references)
        self.last_tick = training.step
        started = time.monotonic()
        with self.budget.charged(kind, n_references):
            if kind is None:
                records = self._without_values(OVER_BUDGET)
            else:
                try:
                    records = self._measure(training, kind == "heatmap")
                except Exception as error:
                    records = self._without_values(described(error))
                    # read again from the checkpoint of this step
                    self.activations.pop("previous", None)
                    self.measured = training.step
        # Not charged to this kind of tick: the first table that is written loads the library for it.
        with self.budget.charged():
            context = {"step": training.step, "tokens": training.step * self.tokens_per_step}
            seconds = time.monotonic() - started
            records = [{**context, **record, "seconds": seconds} for record in records]
            if training.is_first:
                self._warn(records)
                self.tables.add(records)
                if kind == "heatmap":
                    self.tables.fold(if_grown=True)
        return self._metrics(records, time.monotonic() - started)

    def before_checkpoint(self, training: TrainingState) -> None:
        """Save what ``previous`` refers to, unless it is the model in the checkpoint itself."""
        if "previous" in self.activations and self.measured not in (None, training.step):
            self.store.save_previous(training, self.measured, self.activations["previous"])

    def publish(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Fold the table, draw the figures, and return their files and all records."""
        with self.budget.charged():
            return self.tables.draw()

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, the last tick, the last one that was measured, and the records that wait."""
        state = {"budget": self.budget.state_dict(), "last_tick": self.last_tick, "measured": self.measured}
        return state | {"waiting": self.tables.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick, self.measured = state_dict["last_tick"], state_dict["measured"]
        self.tables.load_state_dict(state_dict["waiting"])

    def _affordable_kind(self, training: TrainingState, n_references: int) -> str | None:
        """Return ``heatmap``, ``plain``, or None for what the budget allows, the same in all processes."""
        step, last = training.step, training.last_step
        kinds = ["heatmap", "plain"] if step % self.heatmap_every == 0 or step == last else ["plain"]
        done = progress(self.every, step, last)
        allowed = [kind for kind in kinds if self.budget.allows(kind, step, last, done, n_references)]
        return gathered(allowed[0] if allowed else None, training.sync)[0]

    def _metrics(self, records: list[dict[str, Any]], seconds: float) -> dict[str, float]:
        """Return the numbers for the loggers: dissimilarities at equal depth, means of groups, and times."""
        matched = [
            record
            for record in records
            if (pair := (record["site_a"], record["site_b"])) == (LOGITS, LOGITS)
            or pair in self._matched(record["reference"])
        ]
        times = {"dissimilarity/seconds": seconds, "dissimilarity/share": self.budget.taken}
        return logger_keys.by_key(matched) | groups_of_references.by_key(matched, self.groups) | times

    def _measure(self, training: TrainingState, heatmap: bool) -> list[dict[str, Any]]:
        """Capture the model and compare it with every reference; a reference that fails has records that say so."""
        # one pass per tokenization of the probe set
        current: dict[int, ModelActivations] = {}
        for number in sorted({self.reader.number(label) for label in self.references}):
            current[number] = self.reader.read(training, training.model, self.sites, self.reader.inputs[number])
        if not training.step and "init" in self.references:
            self.activations["init"] = current[0]
            self.store.save(training, "init", current[0])
        records = []
        for label in self.references:
            if label == "previous" and self.measured is None:
                continue  # no tick before the first one
            try:
                if label not in self.activations:
                    self._recall(training, label)
                model = current[self.reader.number(label)]
                with together(training.sync):
                    compared = self._compare(model, label, heatmap)
                records += [{"reference": label, **record} for record in agreed(compared, training.sync)]
            except Exception as error:
                records += without_value(label, self.measures, self._matched(label), described(error))
        if heatmap and training.is_first:
            sides = self.activations.items()
            self.tables.add_components(
                training.step, [(label, current[self.reader.number(label)], reference) for label, reference in sides]
            )
        if "previous" in self.references:
            self.activations["previous"], self.measured = current[0], training.step
        return records

    def _compare(self, model: ModelActivations, label: str, heatmap: bool) -> list[dict[str, Any]]:
        reference, inputs = self.activations[label], self.reader.inputs_for(label)
        pairs = [(a, b) for a in self.sites for b in reference.sites] if heatmap else self._matched(label)
        records = compare_pair(model, reference, pairs, inputs.measures, first_components=False)
        return [*records, *map(dict, inputs.records)]

    def _models(self, model: nn.Module) -> Iterator[tuple[str | None, nn.Module, list[str]]]:
        """Yield label, model and sites of the model in training (label None) and of each frozen reference."""
        yield None, model, self.sites
        for label, source in self.references.items():
            if source not in OWN:
                reference = as_module(source, self.load)
                yield label, reference, resolve(reference, self.patterns)

    def _recall(self, training: TrainingState, label: str) -> None:
        """Read ``init`` or ``previous`` as it was, from the folder's files or the checkpoint of that step."""
        step = 0 if label == "init" else self.measured
        if step is not None and step == training.step:
            self.activations[label] = self.reader.read(training, training.model, self.sites, self.reader.inputs[0])
        elif step is not None:
            name = label if label == "init" else f"{label}-{step}"
            self.activations[label] = self.store.recall(training, name, step, self.sites)

    def _matched(self, label: str) -> list[SitePair]:
        sites = self.activations[label].sites if label in self.activations else self.sites
        return matched_pairs(self.sites, sites)

    def _without_values(self, note: str) -> list[dict[str, Any]]:
        """Return the records of a tick that was not measured."""
        labels = [label for label in self.references if label != "previous" or self.measured is not None]
        return [
            record for label in labels for record in without_value(label, self.measures, self._matched(label), note)
        ]

    def _warn(self, records: list[dict[str, Any]]) -> None:
        """Warn once per new note."""
        for record in records:
            if record["note"] and record["note"] not in self._warned:
                self._warned.add(record["note"])
                note = record["note"] + advice(record["note"])
                log.warning("step %d, reference %s: %s", record["step"], record["reference"], note)
