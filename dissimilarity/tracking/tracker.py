"""The core of the tracker: how far each layer of a model in training is from reference models."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dissimilarity.capture.random_state import restored_random_state
from dissimilarity.capture.sites import LOGITS, as_patterns, resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.figures.options import PNG, FigureOptions, as_figure_options
from dissimilarity.measures.base.measure import Measure, as_measures, check_any
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.arguments import as_folder, function, whole
from dissimilarity.probe.batched_inputs import as_inputs
from dissimilarity.probe.outliers import NO_CONTROL, Control, control_of
from dissimilarity.probe.probe_set import Pool, ProbeSet
from dissimilarity.probe.rearrangement import check_nulls
from dissimilarity.probe.site_layout import Channels
from dissimilarity.tables import strict_json
from dissimilarity.tables.curves import JOURNAL, read_curves
from dissimilarity.tracking import logger_keys
from dissimilarity.tracking import reference_groups as groups_of_references
from dissimilarity.tracking.alerts import AlertRules, Alerts
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.lines import Lines, lines_of
from dissimilarity.tracking.pictures import heatmap_pictures
from dissimilarity.tracking.possible_alerts import check_possible
from dissimilarity.tracking.probe_reader import ProbeReader
from dissimilarity.tracking.records import (
    advice,
    agreed,
    described,
    effective_ranks,
    kind_of,
    kinds_of_notes,
    measured_alone,
    without_value,
)
from dissimilarity.tracking.reference_store import ReferenceStore
from dissimilarity.tracking.references import Source, named_references
from dissimilarity.tracking.restored import restored
from dissimilarity.tracking.schedule import check_distance, is_due, is_previous_of_a_tick
from dissimilarity.tracking.tables import Tables
from dissimilarity.tracking.thinning import Thinning
from dissimilarity.tracking.ticker import Ticker
from dissimilarity.tracking.tracked_references import TrackedReferences
from dissimilarity.tracking.training_state import TrainingState

log = logging.getLogger(__name__)

# Share of the figures in the budget: about what one panel of curves and one heat map take.
PANEL_SECONDS = 0.13
# Number of checkpoints whose earlier states stay in files; one may be incomplete.
CHECKPOINTS = 3


class Tracker(Ticker):
    """Measurements, on a schedule, of how dissimilar the model in training is to reference models.

    Any module works whose ``forward`` takes the probe set; only the names of its sites are needed besides.
    Records go to ``folder/curves.jsonl`` and from there to ``folder/curves.parquet`` and ``folder/figures``. A fault in
    a tick leaves NaNs with a note and one warning; training continues. Records that cannot be written wait
    (``outbox``). With several processes, each captures its share of the probe set and the sums are added; if one
    process fails, all of them leave the comparison together.
    """

    journal_name = JOURNAL

    def __init__(
        self,
        references: str | Sequence[str] | Mapping[str, Source],
        measures: Measure | Sequence[Measure] | Mapping[str, Measure],
        probe: Any,
        folder: str | Path,
        *,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        every: int = 50,
        heatmap_every: int = 250,
        n_units: int | None = None,
        nulls: int = 1,
        budget: float | None = None,
        pool: Pool = "none",
        precision: str | None = None,
        tokens_per_step: int = 0,
        load: Callable[[str], nn.Module] | None = None,
        control: Control | Mapping[str, Any] = NO_CONTROL,
        align: Callable[[str], Alignment | None] = lambda name: None,
        mask: Tensor | None = None,
        reference_groups: Mapping[str, Sequence[str]] | None = None,
        channels: Channels = None,
        alerts: Alerts = (),
        figures: FigureOptions | Mapping[str, Any] = PNG,
    ) -> None:
        """Prepare the measurements; nothing is read before ``start``.

        Args:
            references: ``init`` (the model at step 0), ``previous`` (the model half as many
                steps ago in the dense start, and ``every`` steps ago after it),
                ``untrained`` (the model with other initial weights: what its method
                ``untrained()`` returns, or a copy whose layers all have ``reset_parameters()``), or URIs that
                ``load`` turns into modules; or each of these, and modules, by a label of your own.
            measures: one measure, or several with different labels.
            probe: inputs to compare on: a tensor (sequences, ...), the output of a tokenizer, or a loader of batches of
                these; its ``attention_mask`` says where padding is, if ``mask`` does not.
            folder: folder of the tables and figures.
            sites: names or globs of sites, for the model and the references.
            every: steps between ticks, after the dense start of ``schedule``.
            heatmap_every: steps between ticks that compare all pairs of sites, not only those at equal depth.
            n_units: number of units of whole sequences for the error bars; None: each sequence is one.
            nulls: number of rearrangements of the null at ticks that compare all pairs of sites; others have no null,
                because it costs as much as the values. Each takes as long as the values without their errors.
            budget: maximum share of the training time for tracking. After the dense start, ticks are then as far apart
                as it pays for, in every continuation too; the last one is always measured. None: every tick is.
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
            channels: where features are at sites whose modules do not determine it, as in ``ProbeSet``.
            alerts: rules that look at each tick, one or several: names, or mappings such as
                ``{"rule": "collapse", "stop": True}`` (``dissimilarity.tracking.alerts``). What they raise goes to the
                log, to ``folder/alerts.jsonl`` and, by a trainer, to W&B.
            figures: formats and colors of the figures, or their values by name, such as ``{"formats": ["png", "pdf"]}``
                (``dissimilarity.figures.options``). Loggers show PNG.
        """
        check_distance(every=every, heatmap_every=heatmap_every)
        check_nulls(nulls)
        whole("tokens_per_step", tokens_per_step, 0)
        function("align", align, "lambda label: None")
        if load is not None:
            function("load", load, "torch.load")
        sources = named_references(references)
        self.measures = as_measures(measures)
        self.control, self.folder = control_of(control), as_folder(folder)
        self.patterns = as_patterns(sites)
        self.every, self.heatmap_every = int(every), int(heatmap_every)
        self.tokens_per_step = tokens_per_step
        aligned = {
            label: alignment
            for label, source in sources.items()
            if (alignment := align(label) or (align(source) if isinstance(source, str) else None)) is not None
        }
        inputs, own_mask = as_inputs(probe)
        mask = own_mask if mask is None else mask
        probe_set = ProbeSet(inputs, mask, pool, control=self.control, n_units=n_units, channels=channels)
        self.reader = ProbeReader(probe_set, aligned, self.measures, precision)
        self.nulls = nulls
        for reading in self.reader.inputs:
            check_nulls(nulls, reading.plan.probe.extent.sequences)
        groups = {} if reference_groups is None else reference_groups
        self.groups = groups_of_references.labels_by_group(groups, sources)
        self.store = ReferenceStore(self.folder / "references", self.reader, self.folder / "checkpoints")
        self.figures = as_figure_options(figures)
        self.tables = Tables(self.folder, self.groups, self.figures)
        self.budget = Budget(budget, closing=PANEL_SECONDS * len(sources) * len(self.measures))
        self.schedule = Thinning(self.folder / "schedule.json", self.budget, every, heatmap_every)
        self.references = TrackedReferences(sources, sites, load, self.store, every)
        self._last_scheduled: int | None = None
        self._begun = 0
        self._checkpoints: set[int] = set()
        self._is_complete = True
        self._of_matched: list[dict[str, Any]] = []
        self.fault = ""
        self._warned: set[str] = set()
        self._intrinsic: list[dict[str, Any]] = []
        self.alert_rules = AlertRules(alerts, self.groups, self.every)
        self._rule_states: dict[str, dict[str, Any]] = {}
        check_possible(self.alert_rules.rules, sources, self.reader, self.groups)
        check_any(self.measures)
        self._ranks: list[dict[str, Any]] = []
        self._heatmap: list[dict[str, Any]] = []

    @property
    def share(self) -> float:
        """Share of the training time so far that tracking took."""
        return self.budget.taken

    @property
    def replaceable(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the last tick that another one after the end of the training replaces; none if it has all pairs."""
        return [] if self._is_complete else self._of_matched

    @property
    def drift(self) -> dict[str, Any]:
        """Group of references that the model ended up nearest to, by measure; empty without groups."""
        return groups_of_references.drift_of(self.folder, self.groups)

    def start(self, training: TrainingState) -> None:
        """Read the references and continue the table; what cannot be read has records that say so."""
        step = training.step
        if not step:  # also from a checkpoint of step 0, because its tick came later
            self.last_tick = self._last_scheduled = None
            self.references.clear()
            self._rule_states.clear()
            self._warned.clear()
        elif self.last_tick is not None and self.last_tick > step:
            log.warning(
                "step %d: the tracker state is from step %d or later, so earlier states of the model may be missing; "
                "load the tracker state saved with this model",
                step,
                self.last_tick,
            )
            self.last_tick = self._last_scheduled = None
            self.references.forget_after(step)
            self._rule_states.clear()
            self.alert_rules.load_state_dict({})
        # what was measured where a training ended between two ticks is not part of a continued curve
        is_part = step == self._last_scheduled or step == self.last_tick == training.last_step
        if step == self.last_tick and not is_part:
            self.last_tick = self._last_scheduled
            self.alert_rules.load_state_dict(self._rule_states)
        self.alerts, self.why_to_stop, self._begun = (), "", step
        self._checkpoints = {saved for saved in {*self._checkpoints, step} if 0 < saved <= step}
        self.budget.begin(step)
        self.schedule.begin(training)
        if training.is_first:
            self.alert_rules.begin(step, training.last_step)
        with self.budget.charged(), together(training.sync), restored_random_state():
            self.references.sites = resolve(training.model, self.patterns, self.reader.length)
            if training.is_first:
                self.tables.begin(step if is_part else step - 1)
                self.store.begin(step)
            if step == self.last_tick != training.last_step and self._of_matched:
                self._is_complete = False
                if training.is_first:
                    self.tables.replace(step, self._of_matched)
            self.store.owner.number = gathered(self.store.owner.number, training.sync)[0]
            self._fix_positions(training)
            self.references.read_frozen(training)
            # the tick that compares it tries again, and its records say why it cannot
            first = step + (step == self.last_tick)
            for fault in self.references.recall(training, first, self.schedule.thinned) if step else ():
                self._warn(step, "init and previous", fault)

    def is_due(self, step: int, last_step: int | None) -> bool:
        """Return whether there is a tick after ``step`` updates, or a later one needs the model as it is then."""
        return is_due(step, self.every, last_step, self.schedule.thinned) or self._is_previous(step, last_step)

    def is_complete_at(self, step: int) -> bool:
        """Return whether the tick of a step compared all pairs of sites, as the last one does."""
        return self.last_tick == step and self._is_complete

    def tick(self, training: TrainingState) -> dict[str, float]:
        """Measure, or record why not, and return the numbers for the loggers.

        Where training ends at a tick of matched pairs, a second tick at that step replaces its records by those of all,
        and a continuation beyond that step puts them back.
        """
        started, step = time.monotonic(), training.step
        is_second = step == self.last_tick
        # steps of several optimizers may pass over one that is due
        is_scheduled = any(is_due(due, self.every, None, self.schedule.thinned) for due in self._passed(step))
        if not is_scheduled and step != training.last_step:
            try:
                with together(training.sync):
                    self._remember(training)
            except Exception as error:  # the tick that compares it has a note
                self.references.lost.add(step)
                self._warn(step, "previous", described(error))
            return {}
        self._last_scheduled = step if is_scheduled else self._last_scheduled
        is_heatmap = self._is_heatmap(step)
        kind = "heatmap" if is_heatmap or step == training.last_step else "plain"
        with self.budget.charged(kind):
            try:
                with together(training.sync):
                    if self.fault:
                        records = matched = self._without_values(training, self.fault)
                    else:
                        records, matched = self._measure(training, kind == "heatmap", is_scheduled and not is_heatmap)
            except Exception as error:
                self.references.lost |= {step} if self._is_compared_later(training) else set()
                matched = self._without_values(training, described(error))
                records = (self._of_matched if is_second else []) or matched
        context = self._context(step, started)
        records = [record | context for record in records]
        if not is_second:
            self._of_matched = [record | context for record in matched if is_scheduled and not is_heatmap]
        # there may be rows of a first tick, of an interrupted one, or from before a continuation
        if self._begun == step and training.is_first:
            self.tables.drop(step)
        self._begun = step
        metrics = self._record(training, records, started, fold=kind == "heatmap")
        self._heatmap = records if kind == "heatmap" else []
        self._is_complete = kind == "heatmap"
        if is_second:
            self.alerts = ()
        else:
            self._alert(training, self._of_matched or records)
            self._rule_states = self.alert_rules.state_dict() if is_scheduled else self._rule_states
            self.schedule.after_tick(training)
        return metrics

    def skip(self, training: TrainingState, note: str) -> None:
        """Write records without values, because nothing can be measured after this step."""
        started = time.monotonic()
        records = [record | self._context(training.step, started) for record in self._without_values(training, note)]
        self._record(training, records, started, fold=False)

    def before_checkpoint(self, training: TrainingState) -> None:
        """Save what ``previous`` will refer to, and delete what no checkpoint needs any more."""
        self._checkpoints.add(training.step)
        if len(self._checkpoints) < CHECKPOINTS:  # others may be unknown
            self.store.save_states(training, self.references.states)
            self.references.keep_held(self._checkpoints)
        else:
            self.keep_states(training, self._checkpoints)

    def keep_states(self, training: TrainingState, checkpoints: Collection[int]) -> None:
        """Save what ``previous`` will refer to, and delete what the last checkpoints do not need.

        Args:
            training: state of the training.
            checkpoints: steps of the checkpoints that are there; others may be elsewhere.
        """
        self._checkpoints.update(checkpoints)
        last = {step for steps in (checkpoints, self._checkpoints) for step in sorted(steps)[-CHECKPOINTS:]}
        references = self.references

        def is_needed(step: int) -> bool:
            return step in references.states or any(references.is_needed(step, saved) for saved in last)

        with self.budget.charged():
            self.store.save_states(training, references.states)
            self.store.delete_states(training, is_needed)
            references.keep_held(last)

    def publish(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Fold the table, draw the figures, and return their files and all records."""
        with self.budget.charged():
            return self.tables.draw()

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Return the heat maps of the last tick as images, by reference."""
        with self.budget.charged():
            try:
                return heatmap_pictures(self._heatmap, self.folder.resolve().name, self.figures)
            except Exception as error:
                log.warning("no images of heat maps: %s", described(error))
                return {}

    def lines(self) -> Lines:
        """Return the curves up to the last tick, by reference and measure; none unless it compared all pairs."""
        with self.budget.charged():
            try:
                return lines_of(read_curves(self.folder)) if self._heatmap else {}
            except Exception as error:
                log.warning("no charts of layers: %s", described(error))
                return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, the last ticks, the steps of earlier states, and the records that wait."""
        state = super().state_dict() | {"budget": self.budget.state_dict(), "last_tick": self.last_tick}
        state |= {"scheduled": self._last_scheduled, "complete": self._is_complete}
        state |= {"matched": strict_json.dumps(self._of_matched)}  # a Trainer writes JSON, which has no NaN
        state |= {"probe": self.reader.fingerprint, **self.references.state_dict()}
        state |= {"alert_rules": self._rule_states, "checkpoints": sorted(self._checkpoints)[-CHECKPOINTS:]}
        return state | {"training": self.store.owner.number, "waiting": self.tables.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        super().load_state_dict(state_dict)
        self.references.load_state_dict(state_dict)
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick, self._last_scheduled = state_dict["last_tick"], state_dict["scheduled"]
        self._is_complete = state_dict.get("complete", True)
        matched = restored("curves", strict_json.loads(state_dict.get("matched", "[]")))
        self._of_matched = [row for row in matched if row["step"] == self.last_tick]
        self.store.owner.number = state_dict["training"]
        self._checkpoints = set(state_dict.get("checkpoints", ()))
        if state_dict["probe"] != self.reader.fingerprint:
            self.references.marks = {}
            log.warning(
                "the probe set differs from that of the checkpoint, so values before and after it cannot be compared; "
                "pass the same inputs and options, or continue in another folder (a random probe needs a seed)"
            )
        self.tables.load_state_dict(state_dict["waiting"])
        rules = state_dict.get("alert_rules")
        # a list is of an earlier version, and tells no rule from another
        self._rule_states = dict(rules) if isinstance(rules, Mapping) else {}
        self.alert_rules.load_state_dict(self._rule_states)

    def _is_heatmap(self, step: int) -> bool:
        """Return whether a tick compares all pairs of sites wherever training ends."""
        before = -1 if self.last_tick is None else self.last_tick
        return step // self.heatmap_every > before // self.heatmap_every

    def _context(self, step: int, started: float) -> dict[str, int | float]:
        """Return what all records of a tick have, once it is measured."""
        return {"step": step, "tokens": step * self.tokens_per_step, "seconds": time.monotonic() - started}

    def _remember(self, training: TrainingState, activations: ModelActivations | None = None) -> None:
        """Keep the model as it is, if a later tick compares it."""
        references, reader = self.references, self.reader
        if self._is_compared_later(training):
            if activations is None:
                with self.budget.charged():
                    activations = reader.read(training, training.model, references.sites, reader.inputs[0])
            references.states[training.step] = activations
        references.forget(training.step)

    def _is_compared_later(self, training: TrainingState) -> bool:
        """Return whether the model as it is may be ``previous`` of a later tick, even if training ends here."""
        lasts = (None, training.last_step)
        return any(self._is_previous(passed, last) for passed in self._passed(training.step) for last in lasts)

    def _passed(self, step: int) -> range:
        """Return the steps since the last tick, or since the training was first followed."""
        return range(self._begun if self.last_tick is None else self.last_tick + 1, step + 1)

    def _is_previous(self, step: int, last_step: int | None) -> bool:
        """Return whether the model at a step is ``previous`` of a later tick."""
        has_previous, thinned = self.references.has_previous, self.schedule.thinned
        return has_previous and is_previous_of_a_tick(step, self.every, last_step, thinned)

    def _record(
        self, training: TrainingState, records: list[dict[str, Any]], started: float, fold: bool
    ) -> dict[str, float]:
        """Write the records of a tick, and return the numbers for the loggers.

        This is not charged to a kind of tick: the first table that is written loads the library for it.
        """
        with self.budget.charged():
            if training.is_first:
                for kind, (label, note) in kinds_of_notes(records).items():
                    self._warn(training.step, label, note, kind)
                self.tables.add(records)
                self.tables.add_intrinsic(self._intrinsic)
            self.last_tick = training.step
            if training.is_first and fold:
                self.tables.fold(if_grown=True)
                self.tables.refresh_page()
        return self._metrics(records, time.monotonic() - started)

    def _metrics(self, records: list[dict[str, Any]], seconds: float) -> dict[str, float]:
        """Return the numbers for the loggers: dissimilarities at equal depth, means of groups, and times."""
        matched = self._at_equal_depth(records)
        times = {"dissimilarity/seconds": seconds, "dissimilarity/share": self.budget.taken}
        intrinsic = {} if not self._intrinsic else logger_keys.of_model(self._intrinsic)
        self._intrinsic = []
        values = logger_keys.by_key(matched) | logger_keys.beside(matched)
        return values | groups_of_references.by_key(matched, self.groups) | intrinsic | times

    def _at_equal_depth(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the records of sites at equal depth, and of the outputs."""
        return [
            record
            for record in records
            if (pair := (record["site_a"], record["site_b"])) == (LOGITS, LOGITS)
            or pair in self.references.matched(record["reference"])
        ]

    def _alert(self, training: TrainingState, records: Sequence[dict[str, Any]]) -> None:
        """Let the rules look at a tick; the first process decides for all."""
        if not self.alert_rules.rules:
            return
        raised = []
        if training.is_first:
            raised = self.alert_rules.raised(training.step, self._at_equal_depth(records), self._ranks)
            self.tables.add_alerts(raised)
        self.alerts, self._ranks = gathered(raised, training.sync)[0], []
        self.why_to_stop = "; ".join(
            f"alert at step {alert.step:,}: {alert.text}" for alert in self.alerts if alert.stops
        )

    def _measure(
        self, training: TrainingState, heatmap: bool, is_plain: bool
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Capture the model and compare it with every reference; a reference that fails has records that say so.

        Returns:
            The records, and those of a training that does not end here.
        """
        references = self.references
        # one pass per tokenization of the probe set
        current: dict[int, ModelActivations] = {}
        for number in sorted({self.reader.number(label) for label in references.sources}):
            current[number] = self.reader.read(training, training.model, references.sites, self.reader.inputs[number])
        if not training.step and "init" in references.sources.values():
            references.states[0] = current[0]
            self.store.save(training, 0, current[0])
        records, matched, sides = [], [], []
        for label in references.labels(training):
            is_forgotten = training.step == self.last_tick and not references.is_known(label, training.step)
            if is_forgotten and (before := [record for record in self._of_matched if record["reference"] == label]):
                records += before
                continue
            try:
                with together(training.sync):
                    model = current[self.reader.number(label)]
                    step, reference = references.activations(training, label)
                    compared = self._compare(model, reference, label, heatmap)
                    plain = self._compare(model, reference, label, False) if heatmap and is_plain else compared
                sides.append((label, model, reference))
                names = {"reference": label, "reference_step": step}
                records += [names | record for record in agreed(compared, training.sync)]
                matched += [names | record for record in agreed(plain, training.sync)]
            except Exception as error:
                missing = self._without_value(training, label, references.faults.get(label) or described(error))
                records, matched = records + missing, matched + missing
        if self.alert_rules.need_ranks:
            self._ranks = effective_ranks(current[0])
        if heatmap:
            self._intrinsic = measured_alone(training.step, sides)
        self._remember(training, current[0])
        return records, matched

    def _compare(
        self, model: ModelActivations, reference: ModelActivations, label: str, heatmap: bool
    ) -> list[dict[str, Any]]:
        inputs = self.reader.inputs_for(label)
        pairs = [(a, b) for a in model.sites for b in reference.sites] if heatmap else self.references.matched(label)
        nulls = self.nulls if heatmap else 0
        records = compare_pair(model, reference, pairs, inputs.measures, nulls, first_components=False, p_values=False)
        for record in records:
            del record["nulls"]
        return [*records, *map(dict, inputs.records)]

    def _fix_positions(self, training: TrainingState) -> None:
        """Fix the positions that ``drop_top_norm`` drops; if they are lost, no tick of this training has values."""
        self.fault, self.references.faults = "", {}
        path = self.folder / "references" / "positions.safetensors"
        if not self.control.drop_top_norm:
            return
        is_lost = training.is_first and training.step and not path.exists() and self.tables.curves.rows()
        if gathered(bool(is_lost), training.sync)[0]:
            self.fault = (
                f"{path} is missing, so it is unknown which positions drop_top_norm drops; put it back, or continue in "
                "another folder"
            )
            self._warn(training.step, ", ".join(self.references.sources), self.fault)
            return
        faults = self.reader.fix_positions(training, self.references.models(training.model), path)
        self.fault = faults.pop(None, "")
        self.references.faults = {label: fault for label, fault in faults.items() if label is not None}

    def _without_values(self, training: TrainingState, note: str) -> list[dict[str, Any]]:
        """Return the records of a tick that was not measured."""
        labels = self.references.labels(training)
        return [record for label in labels for record in self._without_value(training, label, note)]

    def _without_value(self, training: TrainingState, label: str, note: str) -> list[dict[str, Any]]:
        """Return the records of a reference that was not compared."""
        names = {"reference": label, "reference_step": self.references.step_of(label, training.step)}
        return [names | record for record in without_value(self.measures, self.references.matched(label), note)]

    def _warn(self, step: int, label: str, note: str, kind: str = "") -> None:
        """Warn once per kind of note."""
        kind = kind or kind_of(note)
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("step %d, reference %s: %s", step, label, note + advice(note))
