"""How models are run on the probe set while one of them trains: in which tokens, and which positions count."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.comparison import activations as snapshot
from dissimilarity.comparison.activations import Snapshot
from dissimilarity.comparison.plan import Layout, Pool, lay_out
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import across_tokenizers
from dissimilarity.moments.agreement import gathered
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Inputs, Slice, activations, own_slices
from dissimilarity.probe.outliers import Control, norms_of
from dissimilarity.tables.seal import read_tensors, write_tensors
from dissimilarity.tracking.training_state import TrainingState

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class ReferenceInputs:
    """Inputs of the model in training and of references with one tokenizer, and the measures that compare them.

    Attributes:
        own, theirs: inputs of the model in training and of a reference.
        layout: which samples of both count.
        measures: measures that can compare them.
        records: records without a value, one per measure that cannot.
    """

    own: Inputs
    theirs: Inputs
    layout: Layout
    measures: Sequence[Measure]
    records: Sequence[Mapping[str, Any]] = ()


class ProbeReader:
    """A runner of models on this process's share of the probe set.

    Args:
        probe: inputs to compare on, (sequences, ...).
        alignments: by label of a reference with another tokenizer, the inputs of the model in training and of the
            reference.
        measures, groups, pool, control, precision, mask: as in the tracker.
    """

    def __init__(
        self,
        probe: Tensor,
        alignments: Mapping[str, Alignment],
        measures: Sequence[Measure],
        groups: int,
        pool: Pool,
        control: Control,
        precision: str | None,
        mask: Tensor | None = None,
    ) -> None:
        if precision not in (None, *PRECISIONS):
            raise ValueError(f"precision: expected None or one of {', '.join(PRECISIONS)}, found {precision!r}")
        layout = lay_out(probe, measures, groups, pool, control=control, mask=mask)
        _check_probe(probe, measures, layout)
        self.precision, self.control = precision, control
        self.inputs = [ReferenceInputs(probe, probe, layout, measures)]
        self._numbers: dict[str, int] = {}
        numbers: dict[int, int] = {}
        for label, alignment in alignments.items():
            if id(alignment) not in numbers:
                comparable, records = across_tokenizers(measures)
                layout = lay_out(alignment.extent, comparable, groups, pool, control=control)
                numbers[id(alignment)] = len(self.inputs)
                self.inputs.append(ReferenceInputs(alignment.a, alignment.b, layout, comparable, records))
            self._numbers[label] = numbers[id(alignment)]

    def number(self, label: str) -> int:
        """Return the number of the inputs on which a reference is compared; 0 for the probe set itself."""
        return self._numbers.get(label, 0)

    def inputs_for(self, label: str) -> ReferenceInputs:
        """Return the inputs on which a reference is compared."""
        return self.inputs[self.number(label)]

    def read(
        self, training: TrainingState, model: nn.Module, sites: Sequence[str], inputs: ReferenceInputs
    ) -> Snapshot:
        """Return the activations of a model on this process's share of the probe set, in the probe's precision."""
        tokens = inputs.own if model is training.model else inputs.theirs
        with self._running(training, model):
            own = self.own_slices(training, inputs)
            return snapshot.take(model, tokens, sites, inputs.layout, own, sync=training.sync)

    def own_slices(self, training: TrainingState, inputs: ReferenceInputs) -> list[Slice]:
        """Return this process's slices of the probe set.

        Raises:
            ValueError: there are fewer units than processes.
        """
        own = own_slices(inputs.layout.slices, training.rank, training.world_size)
        if not own:
            raise ValueError(
                f"expected at least one unit of the probe set per process, found {inputs.layout.groups} for "
                f"{training.world_size} processes; pass at least {2 * training.world_size} sequences"
            )
        return own

    def fix_positions(
        self, training: TrainingState, models: Iterable[tuple[str | None, nn.Module, Sequence[str]]], path: Path
    ) -> None:
        """Fix which positions ``drop_top_norm`` drops: as training starts, for all of its continuations.

        Args:
            training: state of the training.
            models: label, model and sites of each model; the label of the one in training is None.
            path: file that holds the positions.

        Raises:
            ValueError: the training continues and the file is gone.
        """
        if training.step:
            if not path.exists():
                raise ValueError(
                    f"{path} is gone; it says which positions drop_top_norm drops, so this training cannot continue; "
                    "start over in an empty folder"
                )
            positions = read_tensors(path)
        else:
            norms: list[dict[tuple[str | None, str], Tensor]] = [{} for _ in self.inputs]
            for label, model, sites in models:
                for number in range(len(self.inputs)) if label is None else [self.number(label)]:
                    norms[number] |= self._norms(training, label, model, sites, self.inputs[number])
            found = [view.layout.without_top_norms(of) for view, of in zip(self.inputs, norms, strict=True)]
            positions = {str(number): tensor.contiguous() for number, tensor in enumerate(found)}
            if training.is_first:
                path.parent.mkdir(exist_ok=True)
                write_tensors(positions, path)
        for number, inputs in enumerate(self.inputs):
            inputs.layout = replace(inputs.layout, kept=positions[str(number)])

    def _norms(
        self,
        training: TrainingState,
        label: str | None,
        model: nn.Module,
        sites: Sequence[str],
        inputs: ReferenceInputs,
    ) -> dict[tuple[str | None, str], Tensor]:
        """Return the norms of a model's samples on the whole probe set, (label, site) -> (sequences, positions)."""
        tokens = inputs.own if model is training.model else inputs.theirs
        read = inputs.layout.for_norms().reader(sites)
        with self._running(training, model):
            norms = norms_of(activations(model, tokens, sites, self.own_slices(training, inputs), read))
        shares = gathered(norms, training.sync)
        return {(label, site): torch.cat([share[site] for share in shares]) for site in sites}

    @contextmanager
    def _running(self, training: TrainingState, model: nn.Module) -> Iterator[None]:
        """Move a model to the device of the one in training and set the probe's precision, for a while."""
        home = next((parameter.device for parameter in model.parameters()), None)
        try:
            with self._autocast(training):
                model.to(training.device)
                yield
        finally:
            if home is not None:
                model.to(home)

    def _autocast(self, training: TrainingState) -> AbstractContextManager[Any]:
        if self.precision is None:
            return training.autocast()
        dtype = PRECISIONS[self.precision]
        if dtype == torch.float32:
            return torch.autocast(training.device.type, enabled=False)
        return torch.autocast(training.device.type, dtype=dtype)


def _check_probe(probe: Tensor, measures: Sequence[Measure], layout: Layout) -> None:
    """Refuses a probe set of tokens with which a measure would fail at every tick; others show in the rows."""
    if probe.ndim != 2 or probe.is_floating_point():
        return
    control, of_tokens = layout.control, layout.pool == "none"
    have = len(probe) * (len(control.positions(probe.shape[1])) - control.drop_top_norm if of_tokens else 1)
    if layout.uneven is not None and of_tokens:
        have = int(layout.uneven.counts.sum())
    keys = "probe.sequences or probe.length" if of_tokens else "probe.sequences"
    faults = [
        f"{measure.label} needs {measure.minimum_samples} samples, and the probe set of {len(probe)} sequences of "
        f"{probe.shape[1]} tokens has {have}: raise {keys}"
        for measure in measures
        if have < measure.minimum_samples
    ]
    if faults:
        raise ValueError("\n".join(faults))
