"""What it costs, while a model trains, to stitch it into each reference and each reference into it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dissimilarity.capture.sites import matched_pairs, resolve
from dissimilarity.figures.penalties import DIRECTIONS, draw_penalties
from dissimilarity.stitching import Penalty, Recipe, Stitch, direct_penalties, enterable_sites
from dissimilarity.stitching.maps import Kind
from dissimilarity.tables.journal import Journal
from dissimilarity.tables.seal import read_tensors, write_tensors
from dissimilarity.tracking.budget import Budget
from dissimilarity.tracking.logger_keys import define_axes, log_pictures
from dissimilarity.tracking.outbox import Outbox
from dissimilarity.tracking.references import OWN, as_module, named_references
from dissimilarity.tracking.schedule import last_step
from dissimilarity.tracking.weights import step_weights

log = logging.getLogger(__name__)

JOURNAL = "penalties.jsonl"


class StitchingTracker(pl.Callback):
    """Measures on a schedule the stitching penalty between the model in training and reference models, both ways.

    ``into`` is the model in front and the reference behind, ``from`` the other way round; see ``stitching.Penalty`` for
    the numbers. Rows go to ``folder/penalties.jsonl``; the loggers, as
    ``penalty/<reference>/<fit>/<direction>/<site in front>``, and ``folder/figures/penalties.png`` show the same. The
    first process alone measures. Nothing that fails here ends the training: it leaves a row with a note.

    Args:
        references: as in ``DissimilarityTracker``; ``init`` and ``previous`` are states of the module's ``net``.
        probe: gives so many sequences of text in the model's tokens (sequences, length).
        folder: where the rows and the figure go.
        sites: globs or names of sites; those at which a model can be entered count.
        sequences: how many: every fourth is held out, the others are fitted on; 14 at least.
        every: steps between direct stitches; the last step has one too.
        task_at: steps at which stitches are trained by gradient too, whatever the budget says.
        task_steps: most steps of such a training.
        kind: of the map, as in ``stitching.Stitch``.
        budget: share of the training time that direct stitches may take; past it they are left out, and a row says so.
        load: turns a URI into a module.
    """

    def __init__(
        self,
        references: Sequence[str],
        probe: Callable[[int], Tensor],
        folder: str | Path,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        sequences: int = 64,
        every: int = 400,
        task_at: Sequence[int] = (),
        task_steps: int = 200,
        kind: Kind = "affine",
        budget: float = 0.015,
        load: Callable[[str], nn.Module] | None = None,
    ) -> None:
        if sequences < 14:
            raise ValueError(f"callbacks.stitching.sequences: expected at least 14, found {sequences}")
        self.references = named_references(references)
        tokens = probe(sequences)
        held_out = torch.arange(len(tokens)) % 4 == 3
        self.sequences, self.held_out = tokens[~held_out], tokens[held_out]
        self.folder, self.patterns, self.every = Path(folder), sites, every
        self.task_at, self.task_steps, self.load = list(task_at), task_steps, load
        self.kind: Kind = kind
        self.budget = Budget(budget)
        self.journal = Journal(self.folder / JOURNAL)
        self.outbox = Outbox(self.journal.append, "penalties")
        self.models: dict[str, nn.Module] = {}
        self.last_tick: int | None = None
        self.measured: int | None = None
        self.saved: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Loads the references and goes on with the rows."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        if not step:  # also from a checkpoint of step 0, whose tick came after it
            self.last_tick = self.measured = None
        self.budget.begin(step)
        with self.budget.charged():
            (self.folder / "references").mkdir(parents=True, exist_ok=True)
            self.journal.truncate(step if step else -1)
            for label, source in self.references.items():
                if source in OWN:
                    _network(pl_module)
                else:
                    self.models[label] = as_module(source, self.load).to(pl_module.device).eval()
            if not step and "init" in self.references:
                self._keep(pl_module, "init")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stitches at step 0, of which there is a checkpoint by now."""
        if trainer.is_global_zero and trainer.global_step == 0 and self.last_tick is None:
            self._tick(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stitches when the schedule says so, once a step."""
        step = trainer.global_step
        due = self._is_due(step, last_step(trainer)) or step in self.task_at
        if trainer.is_global_zero and step and step != self.last_tick and due:
            self._tick(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draws the figure, when the last checkpoint has been saved."""
        if stage == "fit":
            self._publish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draws the figure of what there is, unless the program is to end at once."""
        if isinstance(exception, Exception):
            self._publish(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lets go of earlier weights than those that this checkpoint or the two before it refer to."""
        if len(self.saved) == 2 and trainer.is_global_zero:
            for file in (self.folder / "references").glob("weights-previous-*.safetensors"):
                if int(file.stem.rsplit("-", 1)[1]) < self.saved[0]:
                    file.unlink()
        if self.measured is not None:
            self.saved = [*self.saved, self.measured][-2:]

    def state_dict(self) -> dict[str, Any]:
        """What a continuation cannot know from the weights."""
        state = {"budget": self.budget.state_dict(), "last_tick": self.last_tick, "measured": self.measured}
        return state | {"waiting": self.outbox.waiting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.budget.load_state_dict(state_dict["budget"])
        self.last_tick, self.measured = state_dict["last_tick"], state_dict["measured"]
        self.outbox.waiting = state_dict.get("waiting", [])

    def _tick(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step, last = trainer.global_step, last_step(trainer)
        self.last_tick = step
        labels = [label for label, source in self.references.items() if self._is_there(source, step)]
        if self._is_due(step, last):
            done = 1.0 if last is None else step / last
            if self.budget.allows("direct", step, last, done, max(1, len(labels))):
                precision = trainer.precision_plugin.forward_context()  # as the tracker sees the models
                with self.budget.charged("direct", max(1, len(labels))), precision:
                    self._record(
                        trainer, [row for label in labels for row in self._rows(pl_module, label, "direct", step)]
                    )
                    if "previous" in self.references:
                        self._keep(pl_module, f"previous-{step}")
                        self.measured = step
            else:
                note = {"reference": "", "fit": "direct", "note": "skipped: over callbacks.stitching.budget"}
                self._record(trainer, [{"step": step, **note}])
        if step in self.task_at:
            with self.budget.paused():
                self._record(trainer, [row for label in labels for row in self._rows(pl_module, label, "task", step)])

    def _is_due(self, step: int, last: int | None) -> bool:
        return step % self.every == 0 or step == last

    def _is_there(self, source: Any, step: int) -> bool:
        return step > 0 and (source != "previous" or self.measured is not None) if source in OWN else True

    def _rows(self, pl_module: pl.LightningModule, label: str, fit: str, step: int) -> list[dict[str, Any]]:
        """The penalties of one reference in both directions, or a row that says why there are none."""
        started = time.monotonic()
        try:
            other = self._reference(pl_module, label)
            rows = []
            with _still(pl_module):
                for direction in DIRECTIONS:
                    front, back = (pl_module, other) if direction == "into" else (other, pl_module)
                    for (site, back_site), penalty in self._penalties(front, back, fit).items():
                        names = {
                            "reference": label,
                            "fit": fit,
                            "direction": direction,
                            "site_front": site,
                            "site_back": back_site,
                        }
                        rows.append({"step": step, **names, **vars(penalty)})
        except Exception as error:
            note = f"{type(error).__name__}: {error}"
            log.warning("step %d, stitching with %s: %s", step, label, note)
            rows = [{"step": step, "reference": label, "fit": fit, "note": note}]
        seconds = time.monotonic() - started
        return [{**row, "seconds": seconds} for row in rows]

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
        there = enterable_sites(back)
        return matched_pairs(
            resolve(front, self.patterns), [site for site in resolve(back, self.patterns) if site in there]
        )

    def _reference(self, pl_module: pl.LightningModule, label: str) -> nn.Module:
        """A reference, the model's own earlier states from the files in which they are kept."""
        source = self.references[label]
        if source not in OWN:
            return self.models[label]
        step = 0 if source == "init" else self.measured
        assert step is not None
        net = deepcopy(_network(pl_module))
        try:
            weights = read_tensors(
                self._file("init" if source == "init" else f"previous-{step}"), str(pl_module.device)
            )
        except Exception:  # it was not kept, or is damaged
            whole = step_weights(self.folder / "checkpoints", step)
            weights = {key.removeprefix("net."): value for key, value in whole.items() if key.startswith("net.")}
        net.load_state_dict(weights)
        return net.eval()

    def _keep(self, pl_module: pl.LightningModule, name: str) -> None:
        """Keeps the weights as they are; where that fails, the checkpoint of this step has to do."""
        # copies: weights that share storage cannot be written as they are
        weights = {key: value.detach().clone() for key, value in _network(pl_module).state_dict().items()}
        try:
            write_tensors(weights, self._file(name))
        except Exception as error:
            log.warning("the weights of %s could not be kept (%s); its checkpoint has them too", name, error)

    def _file(self, name: str) -> Path:
        return self.folder / "references" / f"weights-{name}.safetensors"

    def _record(self, trainer: pl.Trainer, rows: list[dict[str, Any]]) -> None:
        self.outbox.send(rows)
        metrics = {
            f"penalty/{row['reference']}/{row['fit']}/{row['direction']}/{row['site_front']}": row["value"]
            for row in rows
            if "value" in row
        }
        if metrics:
            define_axes(trainer, metrics)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def _publish(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or self.last_tick is None:
            return
        self.outbox.send()
        with self.budget.charged():
            try:
                pictures = draw_penalties(self.journal.read(), self.folder / "figures", ["png"])
            except Exception as error:
                log.warning("no figure of penalties in %s: %s: %s", self.folder, type(error).__name__, error)
                pictures = []
        log_pictures(trainer, pictures)


def _network(pl_module: pl.LightningModule) -> nn.Module:
    """The network whose earlier states are references."""
    net = getattr(pl_module, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"references init and previous: {type(pl_module).__name__} has no network `net` to keep; name it so, or "
            "give modules as references"
        )
    return net


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """The model as it predicts; random numbers that stitches draw are given back."""
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        model.train(training)
