"""How models are run on the probe set while one of them trains: in which tokens, and which rows of them count."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dissimilarity.comparison.activations import ModelActivations, read_chunks
from dissimilarity.comparison.plan import Plan, make_plan
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import across_tokenizers
from dissimilarity.moments.agreement import together
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Slice, slices_of_process
from dissimilarity.probe.outliers import norms_of
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.tables.seal import read_tensors, write_tensors

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class View:
    """How the model in training, and the references that are compared with it so, are read.

    Attributes:
        plan: how the probe set is cut and read: the model in training reads its first side, a reference the second.
        measures: what is taken of them.
        rows: of the measures that cannot be, without a value.
    """

    plan: Plan
    measures: Sequence[Measure]
    rows: Sequence[Mapping[str, Any]] = ()


class Probing:
    """Runs models on the probe set, or on this process's share of it.

    Args:
        probe: the probe set, in the tokens of the model in training.
        alignments: by label of a reference that reads the text of the probe set in other tokens, what the model in
            training and the reference are given.
        measures, precision: as in the tracker.
    """

    def __init__(
        self,
        probe: ProbeSet,
        alignments: Mapping[str, Alignment],
        measures: Sequence[Measure],
        precision: str | None,
    ) -> None:
        if precision not in (None, *PRECISIONS):
            raise ValueError(f"expected probe.precision null or one of {', '.join(PRECISIONS)}, found {precision!r}")
        plan = make_plan(probe, measures)
        _check_probe(plan, measures)
        self.precision = precision
        self.views = [View(plan, measures)]
        self._view: dict[str, int] = {}
        known: dict[int, int] = {}
        for label, alignment in alignments.items():
            if id(alignment) not in known:
                few, rows = across_tokenizers(measures)
                plan = make_plan(replace(probe, inputs=alignment, mask=None), few)
                known[id(alignment)] = len(self.views)
                self.views.append(View(plan, few, rows))
            self._view[label] = known[id(alignment)]

    def number(self, label: str) -> int:
        """Which of the views a reference is compared in; 0 is that of the probe set as it is."""
        return self._view.get(label, 0)

    def view(self, label: str) -> View:
        """How a reference is compared."""
        return self.views[self.number(label)]

    def take(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        model: nn.Module,
        sites: Sequence[str],
        view: View,
    ) -> ModelActivations:
        """The activations of a model on this process's share of the probe set, in the precision of the probe."""
        inputs = view.plan.probe.inputs_a if model is pl_module else view.plan.probe.inputs_b
        with self._running(trainer, pl_module, model):
            slices, sync = self.own_slices(trainer, view), trainer.world_size > 1
            with together(sync):
                chunks = list(read_chunks(model, inputs, sites, view.plan, slices=slices))
            return ModelActivations(view.plan, sites, chunks, sync=sync).summed()

    def own_slices(self, trainer: pl.Trainer, view: View) -> list[Slice]:
        """This process's chunks of the probe set.

        Raises:
            ValueError: there is none for it.
        """
        own = slices_of_process(view.plan.slices, trainer.global_rank, trainer.world_size)
        if not own:
            raise ValueError(
                f"expected at least one group of probe sequences a process, found {view.plan.n_units} for "
                f"{trainer.world_size} processes; raise probe.sequences to at least {2 * trainer.world_size}"
            )
        return own

    def settle(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        models: Iterable[tuple[str | None, nn.Module, Sequence[str]]],
        path: Path,
    ) -> None:
        """Which positions are dropped for their norms: settled as a run starts, and kept for its continuations.

        Args:
            trainer, pl_module: of the training.
            models: label and sites of each model; the one in training under None.
            path: where that is kept.

        Raises:
            ValueError: a run goes on without the file.
        """
        if trainer.global_step:
            if not path.exists():
                raise ValueError(
                    f"{path} is not there, which says what positions this run leaves out (control.drop_top_norm), so "
                    "it cannot be continued; start anew with overwrite=true"
                )
            kept = read_tensors(path)
        else:
            norms: list[dict[tuple[str | None, str], Tensor]] = [{} for _ in self.views]
            for label, model, sites in models:
                for number in range(len(self.views)) if label is None else [self.number(label)]:
                    norms[number] |= self._norms(trainer, pl_module, label, model, sites, self.views[number])
            found = [view.plan.probe.remaining_positions(of) for view, of in zip(self.views, norms, strict=True)]
            kept = {str(number): positions.contiguous() for number, positions in enumerate(found)}
            if trainer.is_global_zero:
                path.parent.mkdir(exist_ok=True)
                write_tensors(kept, path)
        for number, view in enumerate(self.views):
            view.plan = view.plan.with_positions(kept[str(number)])

    def _norms(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        label: str | None,
        model: nn.Module,
        sites: Sequence[str],
        view: View,
    ) -> dict[tuple[str | None, str], Tensor]:
        """The norms of a model's rows on the whole probe set, (label, site) -> (sequences, positions)."""
        inputs = view.plan.probe.inputs_a if model is pl_module else view.plan.probe.inputs_b
        with self._running(trainer, pl_module, model):
            slices = self.own_slices(trainer, view)
            norms = norms_of(read_chunks(model, inputs, sites, view.plan.for_norms(), slices=slices))
        parts = [norms] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(parts, norms)
        return {(label, site): torch.cat([part[site] for part in parts]) for site in sites}

    @contextmanager
    def _running(self, trainer: pl.Trainer, pl_module: pl.LightningModule, model: nn.Module) -> Iterator[None]:
        """A model where the one in training is, and in the precision of the probe."""
        home = next((parameter.device for parameter in model.parameters()), None)
        try:
            with self._autocast(trainer, pl_module):
                model.to(pl_module.device)
                yield
        finally:
            if home is not None:
                model.to(home)

    def _autocast(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> AbstractContextManager[Any]:
        if self.precision is None:
            return trainer.precision_plugin.forward_context()
        dtype = PRECISIONS[self.precision]
        if dtype == torch.float32:
            return torch.autocast(pl_module.device.type, enabled=False)
        return torch.autocast(pl_module.device.type, dtype=dtype)


def _check_probe(plan: Plan, measures: Sequence[Measure]) -> None:
    """Refuses a probe set of tokens with which a measure would fail at every tick; others show in the rows."""
    probe = plan.probe.inputs
    if not isinstance(probe, Tensor) or probe.ndim != 2 or probe.is_floating_point():
        return
    control, of_tokens = plan.probe.control, plan.probe.pool == "none"
    have = len(probe) * (len(control.positions(probe.shape[1])) - control.drop_top_norm if of_tokens else 1)
    if plan.probe.sample_counts is not None and of_tokens:
        have = int(plan.probe.sample_counts.sum())
    advice = "pass more or longer sequences" if of_tokens else "pass more sequences"
    faults = [
        f"{measure.label} needs {measure.minimum_samples} samples, and the probe set of {len(probe)} sequences of "
        f"{probe.shape[1]} tokens has {have}: {advice}"
        for measure in measures
        if have < measure.minimum_samples
    ]
    if faults:
        raise ValueError("\n".join(faults))
