"""Checkpoints on the schedule of the tracker, and the one that a run continues from."""

import errno
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from callbacks.metrics import tables_of
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.loading.untrusted import shown
from dissimilarity.tables.curves import JOURNAL, Curves
from dissimilarity.tables.files import replacing
from dissimilarity.tables.journal import Journal, Mark
from dissimilarity.tracking.schedule import KEEP, PINNED, is_due, kept_steps
from dissimilarity.tracking.weights import step_file, step_files

LAST, SECOND_LAST = "last.ckpt", "second_last.ckpt"
_COUNTERS = ("ready", "started", "processed", "completed")


class ScheduledCheckpoints(Checkpoint):
    """Checkpoints on the schedule, step 0 included: `step_0000512.ckpt` (weights) and `last.ckpt` (everything).

    A step is saved when everything that belongs to it is done: its update, its records in the logs, its validation.
    That is when the next batch starts, not at Lightning's `on_train_batch_end`, which comes before logging and
    validation. A continuation then starts with the next batch; nothing is done twice and nothing is left out. For this,
    Lightning's own record of where in an epoch a checkpoint was taken is replaced: see `_begin_after`.

    Both files are written beside their place and renamed, so that a kill or a full disk leaves the last good one. Until
    training ends, `second_last.ckpt` stays too, to continue from if `last.ckpt` is damaged. A checkpoint says how far
    the journals of the run folder go, and a continuation checks that they are intact up to there. Loggers that keep
    checkpoints (`log_checkpoint`) get each file of weights. Step 0 is on disk before the first batch and the first
    tick, so that `init` can always be read again.

    Args:
        folder: folder of the files.
        every: steps between checkpoints of the schedule's even part (see `schedule.is_due`).
        keep: which files of weights stay (see `schedule.kept_steps`). A file is deleted once `last.ckpt` of a later
            step is in place, unless another run pins it with `step_0000512.pinned`.
    """

    def __init__(self, folder: str | Path, every: int, keep: str = "every") -> None:
        if keep not in KEEP:
            raise ValueError(f"checkpoints.keep={keep}: expected one of {', '.join(KEEP)}")
        self.folder = Path(folder)
        self.every, self.keep = every, keep
        self._saved = -1
        self._continued = 0
        self._random: dict[str, Any] | None = None
        self._journals: dict[str, Mark] = {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note after which step the training continues.

        Raises:
            ValueError: it is not a step of this training.
        """
        step = checkpoint["global_step"]
        if type(step) is not int or step < 0 or (trainer.max_steps >= 0 and step > trainer.max_steps):
            raise ValueError(f"expected a step from 0 to {trainer.max_steps}, found {shown(step)}")
        self._continued = step

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the tables to the state of the checkpoint, before anything is logged.

        Loggers that start empty in each session (`replay`) get what was logged before.

        Raises:
            ValueError: a journal lost records that it had when the checkpoint was written, or they are damaged.
        """
        if trainer.is_global_zero:
            for name, mark in self._journals.items():
                path = self.folder.parent / name
                if name == JOURNAL:
                    Curves(path.parent).return_to(mark, _replaced_rows(trainer, path.parent))
                else:
                    Journal(path).return_to(mark)
        for table in tables_of(trainer):
            table.truncate(self._continued or -1)
            for logger in trainer.loggers:
                if self._continued and trainer.is_global_zero and hasattr(logger, "replay"):
                    logger.replay(table.steps())  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set where the training starts, and save step 0."""
        step = trainer.global_step
        _begin_after(trainer, step)
        if self._random is not None:
            _set_random_state(self._random)
            self._random = None
        # a scheduled step whose file is gone is saved now: the weights are those of that step
        is_saved = step and (not self._is_due(trainer) or step_file(self.folder, step).exists())
        self._saved = step if is_saved else -1
        self._save_if_due(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save the step that was just completed, if it is due."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step, which is not on the schedule if something stopped the training early."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save the step that was just completed, due or not, before an interruption."""
        self._save_if_due(trainer)
        if trainer.global_step != self._saved:
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's generators, which training draws from (dropout), and the journals' marks."""
        journals = {path.name: Journal(path).mark().as_dict() for path in self.folder.parent.glob("*.jsonl")}
        return {"random": _random_state(), "journals": journals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold the generators' state until training starts, after the loaders have drawn from them."""
        torch.Generator().set_state(state_dict["random"]["cpu"])  # raises for anything else
        self._random = state_dict["random"]
        self._journals = {str(name): self._mark(name, mark) for name, mark in state_dict["journals"].items()}

    def _mark(self, name: Any, mark: Any) -> Mark:
        """Return the mark of a journal beside the folder of checkpoints, which anyone may have written.

        The journal is cut there, so no other place may be named.

        Raises:
            ValueError: it names another file, or is no mark.
        """
        plain = isinstance(mark, dict) and mark.keys() <= {"size", "crc"} and all(type(n) is int for n in mark.values())
        if not (plain and isinstance(name, str) and re.fullmatch(r"\w[\w.-]*\.jsonl", name)):
            raise ValueError(f"expected marks of journals of this run, found {shown(name)}")
        return Mark(**mark)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step != self._saved and self._is_due(trainer):
            path = step_file(self.folder, step)
            self._write(trainer, path, weights_only=True)
            self._save_last(trainer)
            for logger in trainer.loggers:
                if trainer.is_global_zero and hasattr(logger, "log_checkpoint"):
                    logger.log_checkpoint(path, step, step == trainer.max_steps)  # pyright: ignore[reportAttributeAccessIssue]
            if trainer.is_global_zero:
                self._thin(step)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return is_due(trainer.global_step, self.every, trainer.max_steps)

    def _thin(self, now: int) -> None:
        """Delete the files of weights that need not stay; after a kill, the next call finishes that."""
        files = {step: path for step, path in step_files(self.folder).items() if step <= now}
        for step in files.keys() - kept_steps(files, self.every, self.keep):
            if not files[step].with_suffix(PINNED).exists():
                files[step].unlink()

    def _save_last(self, trainer: pl.Trainer) -> None:
        for logger in tables_of(trainer):
            logger.flush()
        self._write(trainer, self.folder / LAST, weights_only=False)
        self._saved = trainer.global_step
        if trainer.is_global_zero and self._saved == trainer.max_steps:
            (self.folder / SECOND_LAST).unlink(missing_ok=True)

    def _write(self, trainer: pl.Trainer, path: Path, weights_only: bool) -> None:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only)
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with replacing(path) as part:
                    with part.open("wb") as file:  # given a path, torch would write its name into the file
                        torch.save(checkpoint, file)
                    if path.name == LAST and path.exists():
                        path.replace(path.with_name(SECOND_LAST))
            except (OSError, RuntimeError) as error:
                raise _disk_error(error, path) from error
        trainer.strategy.barrier("ScheduledCheckpoints")


def save_now(trainer: pl.Trainer) -> None:
    """Save the step that was just completed, before anything that an uninterrupted run does not do."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ScheduledCheckpoints):
            callback.save(trainer)


def _disk_error(error: Exception, path: Path) -> Exception:
    cause = error if isinstance(error, OSError) else error.__context__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "file write failed" in str(error) or "unexpected pos" in str(error):
        return OSError(
            errno.ENOSPC,
            f"disk full: checkpoint not written, the previous one is intact ({error}); the same command continues",
            str(path),
        )
    return error


def _replaced_rows(trainer: pl.Trainer, folder: Path) -> Sequence[Mapping[str, Any]]:
    """Return the rows of the checkpoint's tick, which one at the end of the training may have replaced since."""
    trackers = [tracker for tracker in trainer.callbacks if isinstance(tracker, DissimilarityTracker)]  # pyright: ignore
    return next((tracker.replaceable for tracker in trackers if tracker.folder == folder), [])


def _begin_after(trainer: pl.Trainer, step: int) -> None:
    """Set Lightning's loops to where an uninterrupted run has them after `step` updates.

    A restored loop guesses from its counters what it was doing when it was saved. Depending on the guess, it skips or
    repeats a validation and logs at steps that are off by one. All checkpoints here are taken between two steps, so the
    counters follow from the step. In the middle of an epoch, which `limit_train_batches` makes short, the loop must
    restart to keep them.
    """
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    batches = trainer.num_training_batches
    epochs, steps = divmod(step, math.ceil(batches / trainer.accumulate_grad_batches))
    done = steps * trainer.accumulate_grad_batches
    for progress, total, current in (
        (fit.epoch_progress, epochs, epochs),
        (epoch.batch_progress, epochs * int(batches) + done, done),
    ):
        progress.total.load_state_dict(dict.fromkeys(_COUNTERS, total))
        progress.current.load_state_dict(dict.fromkeys(_COUNTERS, current))
    epoch.batch_progress.is_last_batch = False
    epoch.val_loop.batch_progress.reset()
    for loop in (fit, epoch, epoch.val_loop, epoch.automatic_optimization):
        loop._restarting = False
    for loop in (fit, epoch, epoch.val_loop):
        loop.reset_restart_stage()
    epoch._restarting = done > 0
    # a loop that restarts adds the step that Lightning's own checkpoints, taken within it, leave out
    epoch._batches_that_stepped = step - (done > 0)


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
