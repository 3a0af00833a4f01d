"""A callback for the Trainer of Hugging Face transformers: follow any of its models while it trains.

The measurements are those of ``dissimilarity.tracking``; this module connects them to a Trainer, its checkpoints and
its reporters. It needs transformers (``pip install "dissimilarity[hf]"``).
"""

import logging
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from dissimilarity.loading.places import folder_of
from dissimilarity.loading.pretrained import load_folder
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.cka import CKA
from dissimilarity.measures.procrustes import Procrustes
from dissimilarity.moments.agreement import gathered
from dissimilarity.probe.batched_inputs import as_inputs
from dissimilarity.tables.strict_json import loads
from dissimilarity.tracking.lines import Line
from dissimilarity.tracking.logger_keys import HEATMAPS, LAYERS, named, names_of, sectioned
from dissimilarity.tracking.references import Source, named_references
from dissimilarity.tracking.tracker import Tracker
from dissimilarity.tracking.training_state import TrainingState
from dissimilarity.tracking.without_adapters import WithoutAdapters, has_adapters

log = logging.getLogger(__name__)

STATE = "dissimilarity"
"""Key of the states of trackers in the Trainer's state, which is in each of its checkpoints."""

_callbacks: WeakSet["DissimilarityCallback"] = WeakSet()
"""Those in a training, which its ``TrainerState`` tells."""


class DissimilarityCallback(TrainerCallback):
    """A ``TrainerCallback`` that measures how dissimilar the model in training is to reference models.

    Numbers go to the Trainer's own reporters (``report_to``), tables and figures to ``folder``. A training that resumes
    from a checkpoint of the Trainer, wherever it is, continues its curves. Several processes share the work on the
    probe set.

    Args:
        probe: inputs to compare on: a tensor (sequences, positions), the output of a tokenizer, or a loader of batches.
        references: ``init`` (the model as it is when training starts), ``previous``, ``base`` (the model without its
            adapters of peft; without any, ``init``), ``hf:FOLDER`` and ``hf:ORG/MODEL@REVISION``; or each of these, and
            modules, by a label of your own.
        measures: measures; by default CKA and angular Procrustes.
        folder: folder of the tables and figures; by default ``dissimilarity`` in the Trainer's ``output_dir``. Several
            callbacks of one Trainer each need their own; its name is then part of their keys in the reporters.
        load: turns any other URI into a module.
        options: further arguments of ``Tracker``, such as ``sites``, ``every`` and ``mask``.

    Raises:
        ValueError: an argument that no training could have.

    Examples:
        >>> tokens = torch.randint(50, (8, 16))
        >>> callback = DissimilarityCallback(tokens, references=["init", "base"], every=100)
        >>> callback.tracker is None
        True
    """

    def __init__(
        self,
        probe: Any,
        references: str | Sequence[str] | Mapping[str, Source] = ("init", "previous"),
        measures: Measure | Sequence[Measure] | Mapping[str, Measure] | None = None,
        folder: str | Path | None = None,
        load: Callable[[str], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.probe, mask = as_inputs(probe)
        self.folder, self.load = folder, load
        self.options = options if mask is None else {"mask": mask, **options}
        self.references = named_references(references)
        self.measures = [CKA(), Procrustes()] if measures is None else measures
        self.tracker: Tracker | None = None
        # what no training could have is refused now, and not once a Trainer has loaded everything
        Tracker(self.references, self.measures, self.probe, folder or "dissimilarity", load=load, **self.options)
        self._reporters: list[TrainerCallback] = []
        self._state: TrainerState | None = None
        self._start = 0
        self._layout: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Read the references and continue the table.

        Raises:
            ValueError: a reference cannot be read, a site does not exist, or another callback of the Trainer has the
                same folder.
        """
        folder = Path(str(args.output_dir)) / "dissimilarity" if self.folder is None else Path(self.folder)
        if any(peer._state is state and peer._tracker.folder.resolve() == folder.resolve() for peer in _callbacks):
            raise ValueError(
                f"two callbacks of one Trainer write to {folder}; give each its own, such as folder='{folder}-2'"
            )
        base = _base_of(model, bool(state.global_step))
        sources = {label: base if source == "base" else source for label, source in self.references.items()}
        self.tracker = Tracker(sources, self.measures, self.probe, folder, load=self._load, **self.options)
        self._state, self._start, self._layout = state, state.global_step, {}
        _callbacks.add(self)
        classes = get_reporting_integration_callbacks(args.report_to) if state.is_world_process_zero else []
        self._reporters = [reporter() for reporter in classes]
        training = _training(args, state, model)
        if state.global_step and (saved := self._saved(args, state)):
            self.tracker.load_state_dict(saved)
        self.tracker.start(training)
        self._keep_states(args, training)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measure step 0, or the step that a training resumes from if it has no tick yet."""
        step, tracker = state.global_step, self._tracker
        if step == self._start:
            if step != tracker.last_tick and tracker.is_due(step, state.max_steps):
                self._tick(args, state, control, _training(args, state, model))
            self._store_state(state)  # which may differ from that of the checkpoint

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measure when the schedule says so."""
        if self._tracker.is_due(state.global_step, state.max_steps):
            self._tick(args, state, control, _training(args, state, model))
        if control.should_save:  # with the time until now
            self._store_state(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Measure where training has ended, before the best model is loaded."""
        if "train_runtime" in (logs or {}) and not self._tracker.is_complete_at(state.global_step):
            self._tick(args, state, control, _training(args, state, model, state.global_step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measure after the last step, wherever it is, and finish the table and the figures."""
        tracker, training = self._tracker, _training(args, state, model, state.global_step)
        if tracker.last_tick != state.global_step:
            if args.load_best_model_at_end and state.best_model_checkpoint:
                tracker.skip(training, "the best model was loaded before the end could be measured")
            else:
                self._tick(args, state, control, training)
        if state.is_world_process_zero:
            tracker.publish()

    def _keep_states(self, args: TrainingArguments, training: TrainingState) -> None:
        """Save what a resumed training needs, whatever makes the Trainer save a checkpoint before the next tick."""
        names = [path.name.removeprefix("checkpoint-") for path in Path(str(args.output_dir)).glob("checkpoint-*")]
        steps = {self._start, *(int(name) for name in names if name.isdecimal())}
        saved = gathered({step for step in steps if 0 < step <= training.step}, training.sync)[0]
        self._tracker.keep_states(training, saved)

    def _store_state(self, state: TrainerState) -> None:
        """Put the states of trackers into that of the Trainer, which is in each of its checkpoints."""
        stored: Any = state.stateful_callbacks
        stored[STATE] = {"folders": {peer._key: peer._tracker.state_dict() for peer in self._peers}}

    @property
    def _tracker(self) -> Tracker:
        assert self.tracker is not None, "the Trainer calls on_train_begin first"
        return self.tracker

    @property
    def _peers(self) -> list["DissimilarityCallback"]:
        """The callbacks of the same training."""
        return [callback for callback in _callbacks if callback._state is self._state]

    @property
    def _name(self) -> str:
        """What tells the keys of this callback from those of its peers."""
        peers = self._peers
        return names_of([peer._tracker.folder.resolve() for peer in peers])[peers.index(self)]

    def _tick(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, training: TrainingState
    ) -> None:
        name = self._name
        metrics = {named(key, name): value for key, value in self._tracker.tick(training).items()}
        self._keep_states(args, training)
        self._store_state(state)
        if self._tracker.why_to_stop:
            control.should_training_stop = True
        if not (metrics and state.is_world_process_zero):
            return
        for reporter in self._reporters:
            try:
                if not self._show(reporter, args, state, training.model, metrics):
                    reporter.on_log(args, state, control, model=training.model, logs=dict(metrics))
            except Exception as error:
                log.warning("step %d: %s: %s", training.step, type(reporter).__name__, error)

    def _show(
        self, reporter: Any, args: TrainingArguments, state: TrainerState, model: nn.Module, metrics: dict[str, float]
    ) -> bool:
        """Show curves in sections, heat maps and alerts in W&B or TensorBoard; return False for another reporter.

        By itself, a reporter would put all curves into the section of the training.
        """
        step, sections = state.global_step, {sectioned(key): value for key, value in metrics.items()}
        if (wandb := getattr(reporter, "_wandb", None)) is not None:
            if not reporter._initialized:
                reporter.setup(args, state, model)
            images = {key: wandb.Image(picture) for key, picture in self._heatmaps()}
            wandb.log({**sections, **images, **self._charts(wandb), "train/global_step": step})
            for alert in self._tracker.alerts:
                wandb.alert(title=alert.rule, text=f"step {step:,}: {alert.text}")
            return True
        if not hasattr(reporter, "tb_writer"):
            return False
        if reporter.tb_writer is None:
            reporter.on_train_begin(args, state, None)
        writer: Any = reporter.tb_writer
        for key, value in sections.items():
            writer.add_scalar(key, value, step)
        for key, picture in self._heatmaps():
            writer.add_image(key, picture, step, dataformats="HWC")
        name = self._name
        layout = {
            title: ["Multiline", [sectioned(named(f"dissimilarity/{'/'.join(key)}/{site}", name)) for site in sites]]
            for title, key, sites in self._lines()
        }
        if layout and hasattr(writer, "add_custom_scalars"):
            self._layout = {self._section: layout}
            layouts = [peer._layout for peer in self._peers]  # TensorBoard shows the last one that it gets
            writer.add_custom_scalars(dict(ChainMap(*layouts)))
        writer.flush()
        return True

    def _heatmaps(self) -> list[tuple[str, Any]]:
        """Return key and image of each heat map of a tick."""
        pictures, name = self._tracker.pictures(), self._name
        return [(sectioned(named(f"{HEATMAPS}/{reference}", name)), picture) for reference, picture in pictures.items()]

    @property
    def _section(self) -> str:
        """Section of the charts of layers."""
        return named(LAYERS, self._name).replace("/", " ")

    def _lines(self) -> list[tuple[str, tuple[str, str], dict[str, Line]]]:
        """Return title, reference and measure, and lines of each chart of layers of a tick."""
        lines = self._tracker.lines()
        return [(f"{key[0].replace('/', ' ')} {key[1]}", key, sites) for key, sites in lines.items()]

    def _charts(self, wandb: Any) -> dict[str, Any]:
        """Return the charts of a tick by key, with all layers as lines."""
        charts = {}
        for title, _, sites in self._lines() if hasattr(wandb, "plot") else ():
            steps, values = zip(*sites.values(), strict=True)
            chart = wandb.plot.line_series(steps, values, list(sites), title, "train/global_step", split_table=True)
            charts[f"{self._section}/{title}"] = chart
        return charts

    def _load(self, uri: str) -> nn.Module:
        """Return the module of a URI."""
        if uri.startswith("hf:"):
            return load_folder(folder_of(uri)[0], uri)[0].eval()
        if self.load is not None:
            return self.load(uri)
        raise ValueError(
            f"reference {uri!r}: expected init, previous, base, hf:FOLDER, hf:ORG/MODEL or a module; pass load= to "
            "turn other URIs into modules"
        )

    @property
    def _key(self) -> str:
        """Key of this callback among those of the Trainer: its folder as given, so that checkpoints can be moved."""
        return "" if self.folder is None else str(self.folder)

    def _saved(self, args: TrainingArguments, state: TrainerState) -> Any:
        """Return the tracker's state in the checkpoint that is resumed; None without one."""
        stored: Any = state.stateful_callbacks
        states = stored.get(STATE, {"folders": {}})["folders"]
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not states and (file := checkpoint / f"{STATE}.json").exists():  # of an earlier version
            return loads(file.read_text())
        only = next(iter(states.values())) if len(states) == 1 else None
        return states.get(self._key, only)


def _base_of(model: nn.Module, is_continued: bool) -> Source:
    """Return the model without its adapters; without any, its start."""
    return WithoutAdapters(model, is_continued) if has_adapters(model) else "init"


def _training(
    args: TrainingArguments, state: TrainerState, model: nn.Module, last_step: int | None = None
) -> TrainingState:
    """Return what a tick needs to know of a Trainer."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    if args.bf16 or args.fp16:
        dtype = torch.bfloat16 if args.bf16 else torch.float16
        autocast = partial(torch.autocast, device_type=device.type, dtype=dtype)
    return TrainingState(
        model=model,
        step=state.global_step,
        last_step=state.max_steps if last_step is None else last_step,
        device=device,
        rank=args.process_index,
        world_size=args.world_size,
        autocast=autocast,
    )
