"""PyTorch Lightning callbacks that follow a model while it trains, for any LightningModule.

The measurements are those of ``dissimilarity.tracking``; this module connects them to a Trainer and its loggers.
"""

import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from dissimilarity.tracking.alerts import Alert
from dissimilarity.tracking.logger_keys import HEATMAPS, LAYERS, STEP_AXIS, named, names_of, sectioned
from dissimilarity.tracking.penalties import PenaltyTracker
from dissimilarity.tracking.ticker import Ticker
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState


class TickerCallback(Ticker, pl.Callback):
    """The hooks of a tracker: when a tick is due, what the loggers show, and what a continuation needs."""

    ends: ClassVar[tuple[type[BaseException], ...]] = ()
    """Exceptions that end a training between two steps, after the same one in all processes."""

    _name: str = ""
    _step: int = 0
    _is_training: bool = False
    _keys_with_axis: frozenset[str] = frozenset()
    _layout: Mapping[str, Any] = MappingProxyType({})

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: trackers of one trainer differ in their folders."""
        return self._generate_state_key(folder=str(self.folder))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the name that tells this tracker from others of its kind.

        Raises:
            ValueError: another one has the same folder.
        """
        trackers = [tracker for tracker in _trackers(trainer) if tracker.journal_name == self.journal_name]
        folders = [tracker.folder.resolve() for tracker in trackers]
        if folders.count(self.folder.resolve()) > 1:
            raise ValueError(f"several trackers write {self.folder / self.journal_name}; give each its own folder")
        self._name = names_of(folders)[trackers.index(self)]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the state of the tracker at the same position, for example after its folder was moved."""
        states, kind = checkpoint["callbacks"], type(self).__qualname__ + "{"
        keys = [key for key in states if key.startswith(kind)]
        peers = [tracker for tracker in _trackers(trainer) if type(tracker) is type(self)]
        if self.state_key not in states and len(keys) == len(peers):
            self.load_state_dict(states[keys[peers.index(self)]])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the references and continue the table."""
        self._step, self._is_training = trainer.global_step, False
        self._keys_with_axis, self._layout = frozenset(), {}  # of the loggers of another fit
        self.start(training_state(trainer, pl_module, last_step(trainer)))
        self._is_training = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tick at step 0, which has a checkpoint by now, or at a step that was saved before its tick."""
        self._tick_if_due(trainer, pl_module, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tick when the schedule says so, once per step.

        Steps of several optimizers come together: one tick for those that are due.
        """
        if trainer.global_step != self._step:
            self._tick_if_due(trainer, pl_module, self._step + 1)
            self._step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tick after the last step, wherever it is, and complete its tick."""
        self._tick_at_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what a continuation needs beside the checkpoint."""
        self.before_checkpoint(training_state(trainer, pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finish the table and the figures, after the last checkpoint."""
        if stage == "fit":
            self._publish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finish the table and the figures, unless the program must end at once.

        Ctrl-C ends a training after the step that was the last one. It may reach each of several processes at another
        moment, so that they can't measure together. What ends it between two steps in all of them (``ends``) leaves
        time for that.
        """
        has_trained = self._is_training and trainer.global_step > 0
        if isinstance(exception, self.ends) and has_trained:
            self._tick_at_end(trainer, pl_module)
        if isinstance(exception, Exception):
            self._publish(trainer)
        elif isinstance(exception, KeyboardInterrupt) and has_trained:
            if trainer.world_size == 1:
                self._tick_at_end(trainer, pl_module)
            elif trainer.global_step != self.last_tick:
                self.skip(training_state(trainer, pl_module), "KeyboardInterrupt: several processes stopped")

    def _tick_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, since: int) -> None:
        """Tick if any of the steps from `since` on is due, unless this one had its tick."""
        step, last = trainer.global_step, last_step(trainer)
        if step != self.last_tick and any(self.is_due(due, last) for due in range(since, step + 1)):
            self._tick(trainer, pl_module)

    def _tick_at_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tick unless the last step had its tick of all pairs of sites."""
        self._is_training = False
        if not self.is_complete_at(trainer.global_step):
            self._tick(trainer, pl_module)

    def _tick(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        training = training_state(trainer, pl_module, last_step(trainer) if self._is_training else trainer.global_step)
        metrics = {named(key, self._name): value for key, value in self.tick(training).items()}
        if trainer.is_global_zero and metrics:
            sections = {sectioned(key): value for key, value in metrics.items()}
            define_axes(trainer, sections.keys() - self._keys_with_axis)
            self._keys_with_axis |= frozenset(sections)
            for logger in trainer.loggers:
                logger.log_metrics(sections if _has_sections(logger) else metrics, step=trainer.global_step)
            self._log_heatmaps(trainer)
            self._log_lines(trainer)
            log_alerts(trainer, self.alerts)
        if self.why_to_stop:
            trainer.should_stop = True

    def _log_heatmaps(self, trainer: pl.Trainer) -> None:
        """Send the heat maps of a tick to the loggers that show images by step."""
        loggers = [logger for logger in trainer.loggers if _has_sections(logger)]
        for reference, picture in (self.pictures() if loggers else {}).items():
            key = sectioned(named(f"{HEATMAPS}/{reference}", self._name))
            for logger in loggers:
                if (log_image := getattr(logger, "log_image", None)) is not None:
                    log_image(key=key, images=[picture], step=trainer.global_step)
                else:
                    logger.experiment.add_image(key, picture, trainer.global_step, dataformats="HWC")  # pyright: ignore

    def _log_lines(self, trainer: pl.Trainer) -> None:
        """Send the curves so far to the loggers that draw several lines in one chart."""
        loggers = [logger for logger in trainer.loggers if _draws_lines(logger)]
        lines = self.lines() if loggers else {}
        section, layout = named(LAYERS, self._name).replace("/", " "), {}
        for (reference, measure), sites in lines.items():
            title = f"{reference.replace('/', ' ')} {measure}"
            tags = [sectioned(named(f"dissimilarity/{reference}/{measure}/{site}", self._name)) for site in sites]
            layout[title] = ["Multiline", tags]
            for logger in loggers:
                if (log_lines := getattr(logger, "log_lines", None)) is not None:
                    log_lines(key=f"{section}/{title}", lines=sites, step=trainer.global_step)
        if not layout or self._layout == {section: layout}:
            return
        self._layout = {section: layout}
        layouts = [tracker._layout for tracker in _trackers(trainer)]  # TensorBoard shows the last one that it gets
        for logger in loggers:
            if not hasattr(logger, "log_lines"):
                logger.experiment.add_custom_scalars(dict(ChainMap(*map(dict, layouts))))  # pyright: ignore

    def _publish(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self.last_tick is not None:
            pictures, curves = self.publish()
            log_pictures(trainer, pictures, self._name)
            log_curves(trainer, curves, self._name)


class DissimilarityTracker(Tracker, TickerCallback):
    """Lightning callback that measures how dissimilar the model in training is to reference models.

    Examples:
        >>> import torch
        >>> from dissimilarity import CKA
        >>> probe = torch.randint(50, (8, 16))
        >>> tracker = DissimilarityTracker(["init", "previous"], [CKA()], probe, "tracked", sites="layers.*", every=100)
        >>> tracker.is_due(8, last_step=1000)
        True
    """


class StitchingTracker(PenaltyTracker, TickerCallback):
    """Lightning callback that measures what it costs to stitch the model in training into references, and the reverse.

    Examples:
        >>> import torch
        >>> tracker = StitchingTracker(["init"], lambda n: torch.zeros(n, 8, dtype=torch.long), "tracked", every=100)
        >>> tracker.is_due(8, last_step=1000), tracker.is_due(100, last_step=1000)
        (False, True)
    """


def training_state(trainer: pl.Trainer, pl_module: pl.LightningModule, last: int | None = None) -> TrainingState:
    """Return what a tick needs to know of a trainer whose training ends at step `last`; None if unknown."""
    return TrainingState(
        model=pl_module,
        step=trainer.global_step,
        last_step=last,
        device=pl_module.device,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        autocast=trainer.precision_plugin.forward_context,
    )


def last_step(trainer: pl.Trainer) -> int | None:
    """Return the step at which training ends; None if unknown."""
    if not trainer.lightning_module.automatic_optimization:
        return None  # a batch may take any number of steps, so that the number of batches says nothing
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None


def _trackers(trainer: pl.Trainer) -> list[TickerCallback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return [callback for callback in callbacks if isinstance(callback, TickerCallback)]


def _has_sections(logger: Logger) -> bool:
    """Return whether a logger shows curves and images in sections: W&B and TensorBoard, which have these methods."""
    with suppress(Exception):  # as below
        return hasattr(logger.experiment, "define_metric") or hasattr(logger.experiment, "add_image")  # pyright: ignore
    return False


def _draws_lines(logger: Logger) -> bool:
    """Return whether a logger draws several lines in one chart: W&B as the application sets it up, and TensorBoard."""
    with suppress(Exception):  # as above
        return hasattr(logger, "log_lines") or hasattr(logger.experiment, "add_custom_scalars")  # pyright: ignore
    return False


def define_axes(trainer: pl.Trainer, keys: Iterable[str]) -> None:
    """Give each key its x axis by exact name, because W&B takes any of several globs that match."""
    for logger in trainer.loggers:
        with suppress(Exception):  # a broken logger must not end the training; it says so when it logs
            for key in sorted(keys):
                logger.experiment.define_metric(key, step_metric=STEP_AXIS)  # pyright: ignore[reportAttributeAccessIssue]


def log_alerts(trainer: pl.Trainer, alerts: Sequence[Alert]) -> None:
    """Send alerts to the loggers that pass them on, such as W&B."""
    for logger in trainer.loggers:
        with suppress(Exception):  # as above
            for alert in alerts:
                logger.experiment.alert(title=alert.rule, text=f"step {alert.step:,}: {alert.text}")  # pyright: ignore


def log_pictures(trainer: pl.Trainer, pictures: Sequence[Path], name: str) -> None:
    """Send finished figures (PNG) to the loggers that take images."""
    for logger in trainer.loggers:
        log_image = getattr(logger, "log_image", None)
        if log_image is not None:
            for picture in pictures:
                if picture.suffix == ".png":
                    log_image(key=named(f"figures/{picture.stem}", name), images=[str(picture)])


def log_curves(trainer: pl.Trainer, records: Sequence[Mapping[str, Any]], name: str) -> None:
    """Send the whole table of curves, heat maps included, to the loggers that take tables."""
    for logger in trainer.loggers:
        log_table = getattr(logger, "log_table", None)
        if log_table is not None and records:
            log_table(
                key=named("curves", name), columns=list(records[0]), data=[list(record.values()) for record in records]
            )
