"""Progress of a training: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from callbacks.run import Run

RECENT = 30.0
"""Seconds whose pace decides how much time is left."""


class Console(pl.Callback):
    """A display of step, loss, tokens per second and the time left that does not slow the training down.

    Args:
        label: name of the training.
        every_seconds: seconds between two lines where the output is not a terminal.
        bar: show a bar rather than lines; None: on a terminal.
        run: the run; beside other jobs of a sweep, it has lines, because bars would overwrite each other.

    Attributes:
        tokens: tokens of the batches so far.
        seconds: seconds of training so far.

    Examples:
        >>> Console(label="small").summary()  # before the first step
        {}
    """

    def __init__(
        self,
        label: str = "training",
        every_seconds: float = 10.0,
        bar: bool | None = None,
        run: Run | None = None,
    ) -> None:
        self.label = label
        self.every_seconds = every_seconds
        self.bar = False if run is not None and run.beside_others else bar
        self.seconds = 0.0
        self.tokens = 0
        self._terminal = Terminal(highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._shown = self._started = 0.0
        self._evaluation = ""
        self._batch_started = self._in_batches = 0.0
        self._passed: deque[tuple[float, float, int]] = deque()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if not trainer.is_global_zero:
            return
        self._started = self._shown = time.monotonic()
        self._in_batches = 0.0
        self._passed.clear()
        if self.bar if self.bar is not None else self._terminal.is_terminal:
            digits = len(f"{trainer.max_steps:,}")
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
                TextColumn(f"[progress.download]{{task.completed:>{digits},}}/{{task.total:,}}"),
                TextColumn("{task.fields[numbers]}"),
                console=self._terminal,
                refresh_per_second=4,
                expand=True,
            )
            self._task = self._progress.add_task(
                self.label, total=trainer.max_steps, completed=trainer.global_step, numbers=""
            )
            self._progress.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a batch."""
        self._batch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count tokens, and show progress at most four times per second."""
        self.tokens += tokens_in(batch) * trainer.world_size
        now = time.monotonic()
        self.seconds, self._in_batches = now - self._started, self._in_batches + now - self._batch_started
        if not trainer.is_global_zero:
            return
        if not self._passed:  # after the first step, which is slower
            self._passed.append((self.seconds, self._in_batches, trainer.global_step))
        seconds = time.monotonic() - self._shown
        if seconds > (0.25 if self._progress else self.every_seconds):
            self._shown = time.monotonic()
            self._show(trainer, outputs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the newest validation loss, to show it."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None:
            self._evaluation = f"  val {float(loss):.3f}"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close(trainer)

    def summary(self) -> dict[str, Any]:
        """Return the tokens per second of the training."""
        return {"tokens_per_second": round(self.tokens / self.seconds, 1)} if self.tokens and self.seconds else {}

    def _show(self, trainer: pl.Trainer, outputs: Any) -> None:
        step, last = trainer.global_step, trainer.max_steps
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        rate = self.tokens / max(self.seconds, 1e-9)
        pace = self._seconds_per_step(step)
        left = "" if pace is None else f"  {clock((last - step) * pace)} left"
        numbers = f"loss {float(loss):.3f}{self._evaluation}  {rate:,.0f} tokens/s{left}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, numbers=numbers)
        else:
            self._terminal.print(f"{self.label} {step:,}/{last:,}  {numbers}", soft_wrap=True)

    def _seconds_per_step(self, step: int) -> float | None:
        """Return the pace over the last seconds; None at the end of the first step.

        What is between batches is left out while it takes most of the time: in the dense start of a schedule, ticks
        come every few steps, as they never do again.
        """
        self._passed.append((self.seconds, self._in_batches, step))
        while len(self._passed) > 2 and self.seconds - self._passed[1][0] > RECENT:
            self._passed.popleft()
        seconds, in_batches, first = self._passed[0]
        if step == first:
            return None
        passed, trained = self.seconds - seconds, self._in_batches - in_batches
        return (passed if passed < 2 * trained else trained) / (step - first)

    def _close(self, trainer: pl.Trainer) -> None:
        if self._progress is not None and self._task is not None:
            rate = self.tokens / max(self.seconds, 1e-9)
            numbers = f"{rate:,.0f} tokens/s  {clock(self.seconds)}{self._evaluation}"
            self._progress.update(self._task, completed=trainer.global_step, numbers=numbers)
            self._progress.stop()
            self._progress = None


def tokens_in(batch: Any) -> int:
    """Return the number of tokens in a batch: the targets, or all tokens if labels come with them.

    Examples:
        >>> import torch
        >>> tokens_in(torch.zeros(2, 17)), tokens_in((torch.zeros(2, 17), torch.zeros(2)))
        (32, 34)
    """
    return batch[:, 1:].numel() if isinstance(batch, Tensor) else batch[0].numel()


def clock(seconds: float) -> str:
    """Return a time as text.

    Examples:
        >>> clock(9), clock(185), clock(7800)
        ('9 s', '3:05 min', '2:10 h')
    """
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
