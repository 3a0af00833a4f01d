"""The core of the stitching tracker: the cost of stitching a model in training into references, and the reverse."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.random_state import restored_random_state
from dissimilarity.capture.sharding import is_sharded
from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import resolve
from dissimilarity.figures.figure import Format
from dissimilarity.figures.options import check_formats
from dissimilarity.figures.penalties import DIRECTIONS, draw_penalties
from dissimilarity.probe.arguments import as_folder
from dissimilarity.stitching import Penalty, Recipe, Stitch, direct_penalties, enterable_sites
from dissimilarity.stitching.maps import Kind
from dissimilarity.tables.curves import PENALTIES
from dissimilarity.tables.journal import Journal
from dissimilarity.tables.seal import read_tensors, write_tensors
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.outbox import Outbox
from dissimilarity.tracking.owner import Owner
from dissimilarity.tracking.records import described
from dissimilarity.tracking.references import Source, as_module, is_own, named_references
from dissimilarity.tracking.schedule import check_distance
from dissimilarity.tracking.thinning import Thinning
from dissimilarity.tracking.ticker import Ticker
from dissimilarity.tracking.training_state import TrainingState
from dissimilarity.tracking.weights import step_file, step_weights

log = logging.getLogger(__name__)

SHARDED = "stitches need a whole model in one process, and this one is sharded (FSDP, tensor parallel)"
TOO_LONG = (
    "reference previous: it is the model %d steps before, and training ends at step %d, so nothing is stitched with "
    "it; pass a smaller every"
)


class PenaltyTracker(Ticker):
    """Measurements, on a schedule, of the stitching penalty between the model in training and references, both ways.

    Direction ``into`` has the model in front and the reference behind, ``from`` the reverse. Records have the numbers
    of ``stitching.Penalty`` and go to ``folder/penalties.jsonl``; the loggers show them as
    ``penalty/<reference>/<fit>/<direction>/<site in front>``, and ``folder/figures/penalties.png`` draws them. Only the
    first process measures. A fault leaves a record with a note; training continues.
    """

    journal_name = PENALTIES

    def __init__(
        self,
        references: str | Sequence[str] | Mapping[str, Source],
        probe: Callable[[int], Tensor],
        folder: str | Path,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        sequences: int = 64,
        every: int = 400,
        task_at: Sequence[int] = (),
        task_steps: int = 200,
        kind: Kind = "affine",
        budget: float | None = None,
        load: Callable[[str], nn.Module] | None = None,
        formats: Sequence[Format] = ("png",),
    ) -> None:
        """Prepare the measurements; no reference is loaded before ``start``.

        Args:
            references: as for ``Tracker``; ``init`` and ``previous`` are states of the module's ``net``.
            probe: returns a number of token sequences, (sequences, positions).
            folder: folder of the records and the figure.
            sites: names or globs of sites; only those at which a model can be entered are used.
            sequences: number of sequences, at least 14; every fourth is held out, the others fit the maps.
            every: steps between direct stitches; the last step has them too.
            task_at: steps at which stitches are also trained by gradient, whatever the budget says.
            task_steps: maximum number of steps of such a training.
            kind: kind of map, as for ``stitching.Stitch``.
            budget: maximum share of the training time for direct stitches, as for ``Tracker``.
            load: turns a URI into a module.
            formats: files of the figure, any of `png`, `pdf` and `svg`. Loggers show PNG.
        """
        if sequences < 14:
            raise ValueError(f"sequences: expected at least 14, found {sequences}")
        check_distance(every=every)
        self.references = named_references(references)
        with restored_random_state():
            tokens = probe(sequences)
        held_out = torch.arange(len(tokens)) % 4 == 3
        self.sequences, self.held_out = tokens[~held_out], tokens[held_out]
        self.folder, self.patterns, self.every = as_folder(folder), sites, every
        self.task_at, self.task_steps, self.load = list(task_at), task_steps, load
        check_formats("formats", formats)
        self.formats = formats
        self.kind: Kind = kind
        self.budget = Budget(budget)
        self.schedule = Thinning(self.folder / "stitching_schedule.json", self.budget, every)
        self.owner = Owner(self.folder / "references" / "weights-training.safetensors")
        self.journal = Journal(self.folder / PENALTIES)
        self.outbox = Outbox(self.journal.append, "penalties")
        self.models: dict[str, nn.Module] = {}
        self.checkpointed: list[int] = []

    def start(self, training: TrainingState) -> None:
        """Load the references and continue the records."""
        if not training.is_first:
            return
        last = training.last_step
        if "previous" in self.references.values() and last is not None and last < self.every:
            log.warning(TOO_LONG, self.every, last)
        if not training.step:  # also from a checkpoint of step 0, because its tick came later
            self.last_tick = None
            self.checkpointed, self.outbox.waiting = [], []
        self.budget.begin(training.step)
        (self.folder / "references").mkdir(parents=True, exist_ok=True)
        if is_sharded(training.model):
            return
        with self.budget.charged(), restored_random_state():
            self.schedule.begin(replace(training, world_size=1))
            step = training.step
            is_tick = self._has_direct_stitches(step, None) or step in self.task_at
            # a training ended here, between two ticks, or the state is later than the model
            if self.last_tick is not None and (self.last_tick > step or (step == self.last_tick and not is_tick)):
                self.last_tick = None
            kept = step if step == self.last_tick else step - 1
            self.journal.truncate(kept)
            self.outbox.waiting = [record for record in self.outbox.waiting if record["step"] <= kept]
            for label, source in self.references.items():
                if is_own(source):
                    _network(training.model)
                else:
                    self.models[label] = as_module(source, self.load, training.model).to(training.device).eval()
            if not training.step:
                self.owner.begin((self.folder / "references").glob("weights-*"))
                if "init" in self.references.values():
                    self._save_weights(training, "init")
            else:  # of steps that are repeated
                self.owner.delete(self._file(f"previous-{later}") for later in self._saved_steps() if later > step)

    def is_due(self, step: int, last_step: int | None) -> bool:
        """Return whether there are stitches after ``step`` updates, or later ones need the model as it is then."""
        return (
            self._has_direct_stitches(step, last_step)
            or step in self.task_at
            or self._is_previous_of_a_tick(step, last_step)
        )

    def tick(self, training: TrainingState) -> dict[str, float]:
        """Stitch, write the records, and return the penalties for the loggers."""
        step, last = training.step, training.last_step
        if self._has_direct_stitches(step, last) or step in self.task_at:
            self.last_tick = step
        if is_sharded(training.model):
            if self.last_tick == step:
                self.skip(training, SHARDED)
            return {}
        if not training.is_first:
            return {}
        records = []
        labels = [label for label, source in self.references.items() if self._exists(source, step)]
        if self._has_direct_stitches(step, last):
            # in the precision in which the tracker sees the models
            with self.budget.charged("plain"), training.autocast():
                records += self._stitch(training, labels, "direct")
            self.schedule.after_tick(replace(training, world_size=1))
        if self._is_previous_of_a_tick(step, None) or self._is_previous_of_a_tick(step, last):
            with self.budget.charged():
                self._save_weights(training, f"previous-{step}")
        if step in self.task_at:
            with self.budget.paused():
                records += self._stitch(training, labels, "task")
        return {
            f"penalty/{record['reference']}/{record['fit']}/{record['direction']}/{record['site_front']}": value
            for record in records
            if (value := record.get("value")) is not None
        }

    def skip(self, training: TrainingState, note: str) -> None:
        """Write a record without values, because nothing can be measured after this step."""
        self.last_tick = training.step
        if training.is_first:
            self.outbox.send([{"step": training.step, "reference": "", "fit": "direct", "note": note}])

    def before_checkpoint(self, training: TrainingState) -> None:
        """Delete earlier weights that neither this checkpoint nor the two before it refer to."""
        self.checkpointed = sorted({*self.checkpointed, training.step})[-3:]
        if len(self.checkpointed) == 3 and training.is_first:
            for step in self._saved_steps():
                if step < self.checkpointed[0] - self.every:
                    self._file(f"previous-{step}").unlink()

    def publish(self) -> tuple[list[Path], list[dict[str, Any]]]:
        """Draw the figure and return its files; there are no curves."""
        self.outbox.send()
        with self.budget.charged():
            try:
                records, model = self.journal.read(), self.folder.resolve().name
                return draw_penalties(records, self.folder / "figures", self.formats, model), []
            except Exception as error:
                log.warning("could not draw the penalties of %s: %s", self.folder, described(error))
                return [], []

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, the last tick, and the records that wait."""
        state = super().state_dict() | {"budget": self.budget.state_dict(), "last_tick": self.last_tick}
        return state | {"training": self.owner.number, "waiting": self.outbox.waiting}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        super().load_state_dict(state_dict)
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick = state_dict["last_tick"]
        self.owner.number = state_dict["training"]
        self.outbox.waiting = state_dict["waiting"]

    def _has_direct_stitches(self, step: int, last_step: int | None) -> bool:
        thinned = self.schedule.thinned
        return step == last_step or step % (self.every if thinned is None else thinned.every) == 0

    def _is_previous_of_a_tick(self, step: int, last_step: int | None) -> bool:
        """Return whether direct stitches ``every`` steps later need the model as it is after ``step`` updates."""
        later = step + self.every
        in_time = last_step is None or later <= last_step
        has_previous = "previous" in self.references.values()
        return has_previous and in_time and self._has_direct_stitches(later, last_step)

    def _exists(self, source: Source, step: int) -> bool:
        """Return whether there is a reference to stitch with: early on, the model has no earlier states."""
        return not is_own(source) or (step > 0 if source == "init" else step >= self.every)

    def _step_of(self, source: Source, step: int) -> int:
        """Return the step of a reference; -1 for another model.

        Where a training ends between two ticks, ``previous`` is the nearest state that was kept.
        """
        if not is_own(source):
            return -1
        expected, steps = 0 if source == "init" else step - self.every, self._saved_steps()
        if source == "init" or expected in steps or not steps or step % self.every == 0:
            return expected
        return min(steps, key=lambda other: abs(other - expected))

    def _saved_steps(self) -> list[int]:
        """Return the steps whose weights are saved for ``previous``."""
        files = (self.folder / "references").glob("weights-previous-*.safetensors")
        return [int(file.stem.rsplit("-", 1)[1]) for file in files]

    def _stitch(self, training: TrainingState, labels: Sequence[str], fit: str) -> list[dict[str, Any]]:
        """Write the records of one fit with all references, and return them."""
        records = [record for label in labels for record in self._measure(training, label, fit)]
        self.outbox.send(records)
        return records

    def _measure(self, training: TrainingState, label: str, fit: str) -> list[dict[str, Any]]:
        """Return the penalties of one reference in both directions, or one record that says why there are none."""
        model, started = training.model, time.monotonic()
        reference_step = self._step_of(self.references[label], training.step)
        context = {"step": training.step, "reference": label, "reference_step": reference_step, "fit": fit}
        records = []
        try:
            reference = self._reference(training, label)
            with _evaluating(model):
                for direction in DIRECTIONS:
                    front, back = (model, reference) if direction == "into" else (reference, model)
                    for (site_front, site_back), penalty in self._penalties(front, back, fit).items():
                        sites = {"direction": direction, "site_front": site_front, "site_back": site_back}
                        records.append({**context, **sites, **vars(penalty)})
        except Exception as error:
            log.warning("step %d, stitching with %s: %s", training.step, label, described(error))
            records = [{**context, "note": described(error)}]
        seconds = time.monotonic() - started
        return [{**record, "seconds": seconds} for record in records]

    def _penalties(self, front: nn.Module, back: nn.Module, fit: str) -> dict[tuple[str, str], Penalty]:
        pairs = self._pairs(front, back)
        device = next(back.parameters()).device
        tokens, held_out = self.sequences.to(device), self.held_out.to(device)
        if fit == "direct":
            return direct_penalties(front, back, tokens, held_out, pairs, self.kind)
        recipe = Recipe(max_steps=self.task_steps)
        stitches = [Stitch(front, back, *pair, kind=self.kind, fit="task", recipe=recipe) for pair in pairs]
        return {stitch.pair: stitch.fit(tokens).penalty(held_out) for stitch in stitches}

    def _pairs(self, front: nn.Module, back: nn.Module) -> list[tuple[str, str]]:
        length = self.sequences.shape[1]
        sites, back_sites = (resolve(model, self.patterns, length) for model in (front, back))
        enterable = enterable_sites(back)
        return matched_pairs(sites, [site for site in back_sites if site in enterable])

    def _reference(self, training: TrainingState, label: str) -> nn.Module:
        """Return a reference; an earlier state of the model is read from its file or the checkpoint of that step."""
        source = self.references[label]
        if not is_own(source):
            return self.models[label]
        self.owner.check()
        step = self._step_of(source, training.step)
        net = deepcopy(_network(training.model))
        file = self._file("init" if source == "init" else f"previous-{step}")
        try:
            weights = read_tensors(file, str(training.device))
        except Exception:  # it could not be saved, or is damaged
            module_weights = step_weights(self.folder / "checkpoints", step)
            weights = {key.removeprefix("net."): value for key, value in module_weights.items() if key[:4] == "net."}
        net.load_state_dict(weights)
        return net.eval()

    def _save_weights(self, training: TrainingState, name: str) -> None:
        """Save the weights as they are; if that fails, stitching needs the checkpoint of this step."""
        # copies, because weights that share storage cannot be written as they are
        weights = {key: value.detach().clone() for key, value in _network(training.model).state_dict().items()}
        try:
            write_tensors(weights, self._file(name))
        except Exception as error:
            file = step_file(self.folder / "checkpoints", training.step)
            log.warning("could not save the weights of %s (%s); stitching with it needs %s instead", name, error, file)

    def _file(self, name: str) -> Path:
        return self.folder / "references" / f"weights-{name}.safetensors"


def _network(model: nn.Module) -> nn.Module:
    """Return the network whose earlier states are references."""
    net = getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"references init and previous: {type(model).__name__} has no network `net`; give the network that name, "
            "or pass modules as references"
        )
    return net


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set a model to eval mode for a while, and restore the random state that stitches change."""
    training = model.training
    model.eval()
    try:
        with restored_random_state():
            yield
    finally:
        model.train(training)
