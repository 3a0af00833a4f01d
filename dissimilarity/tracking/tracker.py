"""The tracker: follows, while a model trains, how far each of its layers is from reference models."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from dissimilarity.capture.sites import LOGITS, matched_pairs, resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.agreement import together
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import as_inputs
from dissimilarity.probe.outliers import NO_CONTROL, Control, control_of
from dissimilarity.probe.probe_set import Pool, ProbeSet
from dissimilarity.tracking import reference_groups as grouped
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.logger_keys import by_key, define_axes, log_curves, log_pictures
from dissimilarity.tracking.models_on_probe import Probing
from dissimilarity.tracking.records import OVER_BUDGET, advice, agreed, described, without_value
from dissimilarity.tracking.reference_groups import labels_by_group
from dissimilarity.tracking.reference_store import Shelf
from dissimilarity.tracking.references import OWN, as_module, named_references
from dissimilarity.tracking.schedule import is_due, last_step, progress
from dissimilarity.tracking.tables import Tables

log = logging.getLogger(__name__)

# The share of the figures in the budget: about what a panel of curves and one of heat maps take.
PANEL_SECONDS = 0.13


class DissimilarityTracker(pl.Callback):
    """Measures, on a schedule, the dissimilarity of the model in training to reference models.

    It knows nothing of the model but the names of its sites: any LightningModule will do whose ``forward`` takes the
    probe set. Rows go to ``folder/curves.jsonl`` and from there to ``folder/curves.parquet``; the trainer's loggers
    and ``folder/figures`` show the same numbers. Whatever fails in a tick leaves NaNs with a note and one warning,
    never the end of the training; rows that cannot be written wait (``outbox``). Under DDP each process captures its
    share of the probe set and the sums are added; what fails in one process, all leave together.

    Args:
        references: ``init`` (the model at step 0), ``previous`` (at the tick before), modules by name, or URIs that
            ``load`` turns into a module.
        measures: the measures; their labels must differ.
        probe: inputs to compare on: a tensor (sequences, ...) or batches of inputs.
        folder: where the table and the figures go.
        sites: globs or names of sites, on the model and on the references.
        every: steps between ticks, after the dense start of ``schedule``.
        heatmap_every: steps between ticks that take all pairs of sites instead of those at equal depth.
        groups: jackknife groups of whole sequences.
        budget: share of the training time that tracking may take; past it, ticks are skipped, and the table says so.
        pool: ``none``: each position is a sample; ``mean``, ``first`` or ``last``: one sample a sequence.
        precision: how models run on the probe set: None as they train, or a name of Lightning's.
        tokens_per_step: tokens of one update, for the table's ``tokens``.
        load: turns a URI into a module in eval mode.
        align: gives, by the label or URI of a reference that reads the text of the probe set in other tokens, what
            ``dissimilarity.probe.alignment.align`` makes of the model's tokens and the reference's; None for any other.
        control: which positions count, and on what scale rows are compared, or its values by name. The positions that
            ``drop_top_norm`` drops are settled once, by the references and the model as training starts.
        mask: which positions of the probe set are real, Bool (sequences, positions); what stands at others, padding,
            is no sample. Of an aligned reference all units are real, and it is left out there.
        reference_groups: name -> URIs or labels of references that behave alike; says to which of them the model
            drifts (``dissimilarity.tracking.reference_groups``). Not to be taken for ``groups``, of sequences.
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
    ) -> None:
        self.references = named_references(references)
        self.measures = list(measures.values()) if isinstance(measures, Mapping) else list(measures)
        self.control, self.folder = control_of(control), Path(folder)
        self.patterns, self.every, self.heatmap_every = sites, every, heatmap_every
        self.tokens_per_step, self.load = tokens_per_step, load
        aligned = {
            label: found
            for label, source in self.references.items()
            if (found := align(label) or (align(source) if isinstance(source, str) else None)) is not None
        }
        probe_set = ProbeSet(as_inputs(probe), mask, pool, control=self.control, n_units=groups)
        self.probing = Probing(probe_set, aligned, self.measures, precision)
        self.groups = labels_by_group(reference_groups or {}, self.references)
        self.shelf = Shelf(self.folder, self.probing)
        self.tables = Tables(self.folder, self.groups)
        self.budget = Budget(budget, closing=PANEL_SECONDS * len(self.references) * len(self.measures))
        self.snapshots: dict[str, ModelActivations] = {}
        self.sites: list[str] = []
        self.last_tick: int | None = None
        self.measured: int | None = None
        self._defined: set[str] = set()
        self._warned: set[str] = set()

    @property
    def share(self) -> float:
        """Share of the time so far that tracking took, everything included."""
        return self.budget.taken

    @property
    def drift(self) -> dict[str, Any]:
        """To which group of references the model was nearest in the end, by measure; empty without groups."""
        return grouped.drift_of(self.folder, self.groups)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the references' activations and goes on with the table."""
        step = trainer.global_step
        if not step:  # also from a checkpoint of step 0, whose tick came after it
            self.last_tick = self.measured = None
        self.budget.begin(step)
        with self.budget.charged():
            self.sites = resolve(pl_module, self.patterns)
            if trainer.is_global_zero:
                self.tables.begin(step if step else -1)
            trainer.strategy.barrier()
            if self.control.drop_top_norm:
                path = self.folder / "references" / "positions.safetensors"
                self.probing.settle(trainer, pl_module, self._models(pl_module), path)
            for label, source in self.references.items():
                if source not in OWN:
                    model = as_module(source, self.load)
                    sites = resolve(model, self.patterns)
                    matched_pairs(self.sites, sites)
                    self.snapshots[label] = self.shelf.external(trainer, pl_module, label, model, sites)
                elif step:
                    try:
                        self._recall(trainer, pl_module, label)
                    except Exception as error:  # the next tick tries again, and its rows say why not
                        log.warning("reference %s: %s", label, described(error))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ticks at step 0, of which there is a checkpoint by now."""
        if trainer.global_step == 0 and self.last_tick is None:
            self._tick(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ticks when the schedule says so, once a step."""
        step = trainer.global_step
        if step and step != self.last_tick and is_due(step, self.every, last_step(trainer)):
            self._tick(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Folds the table and draws the figures, when the last checkpoint has been saved."""
        if stage == "fit":
            self._publish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Folds the table and draws the figures of what there is, unless the program is to end at once."""
        if isinstance(exception, Exception):
            self._publish(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps what ``previous`` refers to, unless that is the model in the checkpoint itself."""
        if "previous" in self.snapshots and self.measured not in (None, trainer.global_step):
            self.shelf.put_previous(trainer, self.measured, self.snapshots["previous"])

    def state_dict(self) -> dict[str, Any]:
        """What a continuation cannot know from the weights: time spent, the last tick, the last that was measured."""
        state = {"budget": self.budget.state_dict(), "last_tick": self.last_tick, "measured": self.measured}
        return state | {"waiting": self.tables.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick = state_dict["last_tick"]
        self.measured = state_dict.get("measured", self.last_tick)
        self.tables.load_state_dict(state_dict.get("waiting", {}))

    def _tick(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One measurement, or the rows that say why there is none."""
        step, last = trainer.global_step, last_step(trainer)
        done = progress(self.every, step, last)
        kinds = ["heatmap", "plain"] if step % self.heatmap_every == 0 or step == last else ["plain"]
        references = max(1, len(self.snapshots))
        allowed = [kind for kind in kinds if self.budget.allows(kind, step, last, done, references)]
        kind = trainer.strategy.broadcast(allowed[0] if allowed else None)
        self.last_tick = step
        started = time.monotonic()
        with self.budget.charged(kind, references):
            if kind is None:
                rows = self._without_values(OVER_BUDGET)
            else:
                try:
                    rows = self._measure(trainer, pl_module, kind == "heatmap")
                except Exception as error:
                    rows = self._without_values(described(error))
                    # to be taken again from the checkpoint of this step
                    self.snapshots.pop("previous", None)
                    self.measured = step
        # Not a part of what a tick costs: the first table that is written loads the library for it.
        with self.budget.charged():
            seconds, tokens = time.monotonic() - started, step * self.tokens_per_step
            rows = [{"step": step, "tokens": tokens, **row, "seconds": seconds} for row in rows]
            if trainer.is_global_zero:
                self._warn(rows)
                self.tables.add(rows)
                if kind == "heatmap":
                    self.tables.fold(if_grown=True)
        if trainer.is_global_zero:
            self._log(trainer, rows, time.monotonic() - started)

    def _log(self, trainer: pl.Trainer, rows: list[dict[str, Any]], seconds: float) -> None:
        """Shows a tick in the loggers."""
        outputs = (LOGITS, LOGITS)
        matched = [
            row
            for row in rows
            if (pair := (row["site_a"], row["site_b"])) == outputs or pair in self._matched(row["reference"])
        ]
        times = {"dissimilarity/seconds": seconds, "dissimilarity/share": self.budget.taken}
        metrics = by_key(matched) | grouped.by_key(matched, self.groups) | times
        define_axes(trainer, metrics.keys() - self._defined)
        self._defined |= metrics.keys()
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, heatmap: bool) -> list[dict[str, Any]]:
        """Captures the model and compares it with every reference; one with which that fails has rows that say so."""
        sync, step = trainer.world_size > 1, trainer.global_step
        now: dict[int, ModelActivations] = {}
        """The model, in the views in which it is compared with references; one pass for all of one view."""
        for number in sorted({self.probing.number(label) for label in self.references}):
            view = self.probing.views[number]
            now[number] = self.probing.take(trainer, pl_module, pl_module, self.sites, view)
        if not step and "init" in self.references:
            self.snapshots["init"] = now[0]
            self.shelf.put(trainer, "init", now[0])
        rows = []
        for label in self.references:
            if label == "previous" and self.measured is None:
                continue  # the first tick has none before it
            try:
                if label not in self.snapshots:
                    self._recall(trainer, pl_module, label)
                model = now[self.probing.number(label)]
                with together(sync):
                    found = self._compared(model, label, heatmap)
                rows += [{"reference": label, **row} for row in agreed(found, sync)]
            except Exception as error:
                rows += without_value(label, self.measures, self._matched(label), described(error))
        if heatmap and trainer.is_global_zero:
            compared = self.snapshots.items()
            self.tables.add_components(step, [(of, now[self.probing.number(of)], taken) for of, taken in compared])
        if "previous" in self.references:
            self.snapshots["previous"], self.measured = now[0], step
        return rows

    def _compared(self, model: ModelActivations, label: str, heatmap: bool) -> list[dict[str, Any]]:
        reference, view = self.snapshots[label], self.probing.view(label)
        pairs = [(a, b) for a in self.sites for b in reference.sites] if heatmap else self._matched(label)
        records = compare_pair(model, reference, pairs, view.measures, first_components=False)
        return [*records, *map(dict, view.rows)]

    def _models(self, pl_module: pl.LightningModule) -> Iterator[tuple[str | None, nn.Module, list[str]]]:
        """The model in training, under None, and each reference that does not come from it, with their sites."""
        yield None, pl_module, self.sites
        for label, source in self.references.items():
            if source not in OWN:
                model = as_module(source, self.load)
                yield label, model, resolve(model, self.patterns)

    def _recall(self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str) -> None:
        """Takes ``init`` or ``previous`` as it was, from the run's files or its checkpoint of that step."""
        step = 0 if label == "init" else self.measured
        if step is not None and step == trainer.global_step:
            view = self.probing.views[0]
            self.snapshots[label] = self.probing.take(trainer, pl_module, pl_module, self.sites, view)
        elif step is not None:
            name = label if label == "init" else f"{label}-{step}"
            self.snapshots[label] = self.shelf.recall(trainer, pl_module, name, step, self.sites)

    def _matched(self, label: str) -> list[SitePair]:
        sites = self.snapshots[label].sites if label in self.snapshots else self.sites
        return matched_pairs(self.sites, sites)

    def _without_values(self, note: str) -> list[dict[str, Any]]:
        """The rows of a whole tick that was not measured."""
        labels = [label for label in self.references if label != "previous" or self.measured is not None]
        return [row for label in labels for row in without_value(label, self.measures, self._matched(label), note)]

    def _warn(self, rows: list[dict[str, Any]]) -> None:
        """One warning for each new kind of trouble."""
        for row in rows:
            if row["note"] and row["note"] not in self._warned:
                self._warned.add(row["note"])
                note = row["note"] + advice(row["note"])
                log.warning("step %d, reference %s: %s", row["step"], row["reference"], note)

    def _publish(self, trainer: pl.Trainer) -> None:
        """Folds the table, draws the figures and shows both in the loggers; a fault in that ends nothing."""
        if not trainer.is_global_zero or self.last_tick is None:
            return
        with self.budget.charged():
            pictures, rows = self.tables.draw()
        log_pictures(trainer, pictures)
        log_curves(trainer, rows)
