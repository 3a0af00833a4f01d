"""The tracker: follows, while a model trains, how far each of its layers is from reference models."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from dissimilarity.capture.sites import LOGITS, matched_pairs, resolve
from dissimilarity.comparison.activations import ModelActivations
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.evaluate import pairs_of
from dissimilarity.figures.run import draw_run
from dissimilarity.measures.base.measure import Measure
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import as_inputs
from dissimilarity.probe.outliers import NO_CONTROL, Control, control_of
from dissimilarity.probe.probe_set import Pool, ProbeSet
from dissimilarity.tables.curves import FIRST_COMPONENTS, Curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking import reference_groups as grouped
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.logger_keys import by_key, define_axes, log_curves, log_pictures
from dissimilarity.tracking.models_on_probe import Probing
from dissimilarity.tracking.reference_groups import labels_by_group
from dissimilarity.tracking.reference_store import Shelf
from dissimilarity.tracking.references import OWN, as_module, named_references
from dissimilarity.tracking.schedule import is_due, last_step, progress

log = logging.getLogger(__name__)

OVER_BUDGET = "skipped: over track.budget"
# The share of the figures in the budget: about what a panel of curves and one of heat maps take.
PANEL_SECONDS = 0.13


class DissimilarityTracker(pl.Callback):
    """Measures, on a schedule, the dissimilarity of the model in training to reference models.

    It knows nothing of the model but the names of its sites: any LightningModule will do whose ``forward`` takes the
    probe set. Rows go to ``folder/curves.jsonl`` and from there to ``folder/curves.parquet``; the trainer's loggers
    and ``folder/figures`` show the same numbers. A measure that fails leaves a NaN with a note and one warning, never
    the end of the training. Under DDP each process captures its share of the probe set and the sums are added.

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
        self.curves, self.components = Curves(self.folder), Journal(self.folder / FIRST_COMPONENTS)
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
        """Takes the references' activations, goes on with the table, and ticks at step 0."""
        step = trainer.global_step
        self.budget.begin(step)
        with self.budget.charged():
            self.sites = resolve(pl_module, self.patterns)
            if trainer.is_global_zero:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.curves.truncate(step if step else -1)
                self.components.truncate(step if step else -1)
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
            if step:
                self._recall_own(trainer, pl_module)
        if not step:
            self._tick(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ticks when the schedule says so, once a step."""
        step = trainer.global_step
        if step != self.last_tick and is_due(step, self.every, last_step(trainer)):
            self._tick(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Folds the table and draws the figures."""
        self._publish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Folds the table and draws the figures of what there is."""
        self._publish(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps what ``previous`` refers to, unless that is the model in the checkpoint itself."""
        if "previous" in self.snapshots and self.measured not in (None, trainer.global_step):
            self.shelf.put_previous(trainer, self.measured, self.snapshots["previous"])

    def state_dict(self) -> dict[str, Any]:
        """What a continuation cannot know from the weights: time spent, the last tick, the last that was measured."""
        return {"budget": self.budget.state_dict(), "last_tick": self.last_tick, "measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick = state_dict["last_tick"]
        self.measured = state_dict.get("measured", self.last_tick)

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
                rows = self._skipped(OVER_BUDGET)
            else:
                try:
                    rows = self._measure(trainer, pl_module, kind == "heatmap")
                except Exception as error:
                    rows = self._skipped(f"{type(error).__name__}: {error}")
        # Not a part of what a tick costs: the first table that is written loads the library for it.
        with self.budget.charged():
            rows = self._finish_rows(rows, step, time.monotonic() - started)
            if trainer.is_global_zero:
                self.curves.append(rows)
                if kind == "heatmap":
                    self.curves.fold()
                    grouped.fold(self.folder, self.groups)
                self._warn(rows)
        if trainer.is_global_zero:
            outputs = (LOGITS, LOGITS)
            matched = [
                row
                for row in rows
                if (pair := (row["site_a"], row["site_b"])) == outputs or pair in self._matched(row["reference"])
            ]
            metrics = (
                by_key(matched)
                | grouped.by_key(matched, self.groups)
                | {
                    "dissimilarity/seconds": time.monotonic() - started,
                    "dissimilarity/share": self.budget.taken,
                }
            )
            define_axes(trainer, metrics.keys() - self._defined)
            self._defined |= metrics.keys()
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, heatmap: bool) -> list[dict[str, Any]]:
        """Captures the model and compares it with every reference."""
        taken: dict[int, ModelActivations] = {}

        def now(label: str) -> ModelActivations:
            """The model, in the view in which it is compared with a reference; one pass for all of one view."""
            number = self.probing.number(label)
            if number not in taken:
                view = self.probing.views[number]
                taken[number] = self.probing.take(trainer, pl_module, pl_module, self.sites, view)
            return taken[number]

        if not trainer.global_step and "init" in self.references:
            self.snapshots["init"] = now("init")
            self.shelf.put(trainer, "init", self.snapshots["init"])
        rows = []
        for label in self.references:
            if label not in self.snapshots:
                continue
            reference, view = self.snapshots[label], self.probing.view(label)
            pairs = [(a, b) for a in self.sites for b in reference.sites] if heatmap else self._matched(label)
            found = compare_pair(now(label), reference, pairs, view.measures, first_components=False)
            rows += [{"reference": label, **row} for row in (*found, *view.rows)]
        if heatmap and trainer.is_global_zero:
            self._record_components(trainer.global_step, now)
        if "previous" in self.references:
            self.snapshots["previous"], self.measured = now("previous"), trainer.global_step
        return rows

    def _record_components(self, step: int, now: Callable[[str], ModelActivations]) -> None:
        """The share of each site's variance in its first principal component, beside the maps of this step."""
        rows = []
        for label, reference in self.snapshots.items():
            for of, taken in (("model", now(label)), ("reference", reference)):
                rows += [
                    {"step": step, "reference": label, "of": of, "site": site, "share": share}
                    for site, share in taken.first_components.items()
                ]
        self.components.append(rows)

    def _models(self, pl_module: pl.LightningModule) -> Iterator[tuple[str | None, nn.Module, list[str]]]:
        """The model in training, under None, and each reference that does not come from it, with their sites."""
        yield None, pl_module, self.sites
        for label, source in self.references.items():
            if source not in OWN:
                model = as_module(source, self.load)
                yield label, model, resolve(model, self.patterns)

    def _recall_own(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """``init`` and ``previous`` as they were when the run was interrupted."""
        if "init" in self.references:
            self.snapshots["init"] = self.shelf.recall(trainer, pl_module, "init", self.sites)
        if "previous" not in self.references or self.measured is None:
            return
        if self.measured == trainer.global_step:
            view = self.probing.views[0]
            self.snapshots["previous"] = self.probing.take(trainer, pl_module, pl_module, self.sites, view)
        else:
            previous = self.shelf.recall(trainer, pl_module, f"previous-{self.measured}", self.sites)
            self.snapshots["previous"] = previous

    def _matched(self, label: str) -> list[SitePair]:
        sites = self.snapshots[label].sites if label in self.snapshots else self.sites
        return matched_pairs(self.sites, sites)

    def _skipped(self, note: str) -> list[dict[str, Any]]:
        """Rows without a value, one a curve."""
        nothing = dict.fromkeys(("value", "dissimilarity", "stderr", "null", "calibrated"), math.nan)
        return [
            {"reference": label, "measure": m.label, "site_a": a, "site_b": b, **nothing, "n_samples": 0, "note": note}
            for label in self.references
            if label in self.snapshots
            for m in self.measures
            for a, b in pairs_of(m, self._matched(label))
        ]

    def _finish_rows(self, rows: list[dict[str, Any]], step: int, seconds: float) -> list[dict[str, Any]]:
        tokens = step * self.tokens_per_step
        return [{"step": step, "tokens": tokens, **row, "seconds": seconds} for row in rows]

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
            try:
                self.curves.fold()
                grouped.fold(self.folder, self.groups)
                pictures = draw_run(self.folder, formats=["png"])
            except Exception as error:
                log.warning("no figures in %s: %s: %s", self.folder, type(error).__name__, error)
                pictures = []
        log_pictures(trainer, pictures)
        log_curves(trainer, self.curves.rows())


def advice(note: str) -> str:
    """What to do about a row without a value, where the note does not say it."""
    return " (more may be; raise it, up to 1, to measure every tick)" if note == OVER_BUDGET else ""
