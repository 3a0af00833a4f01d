"""How models are run on the probe set while one of them trains: their tokens, and the positions that count."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.sharding import is_sharded
from dissimilarity.comparison.activations import Chunks, ModelActivations, read_chunks
from dissimilarity.comparison.plan import Plan, make_plan
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.output_measure import across_tokenizers
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Inputs, Slice, of_units, slices_of_process, tokens_per_sequence
from dissimilarity.probe.outliers import norms_of
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.tables.seal import read_tensors, write_tensors
from dissimilarity.tracking.records import described
from dissimilarity.tracking.training_state import TrainingState

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class ReferenceInputs:
    """Inputs of the model in training and of references with one tokenizer, and the measures that compare them.

    Attributes:
        plan: how the probe set is cut and read; the model in training reads its first side, a reference the second.
        measures: measures that can compare them.
        records: records without a value, one per measure that cannot.
    """

    plan: Plan
    measures: Sequence[Measure]
    records: Sequence[Mapping[str, Any]] = ()


class ProbeReader:
    """A runner of models on this process's share of the probe set.

    Args:
        probe: the probe set, in the tokens of the model in training.
        alignments: by label of a reference with another tokenizer, the inputs of the model in training and of the
            reference.
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
            raise ValueError(f"precision: expected None or one of {', '.join(PRECISIONS)}, found {precision!r}")
        plan = make_plan(probe, measures)
        _check_probe(plan, measures)
        self.precision = precision
        self.inputs = [ReferenceInputs(plan, measures)]
        self._numbers: dict[str, int] = {}
        numbers: dict[int, int] = {}
        for label, alignment in alignments.items():
            if id(alignment) not in numbers:
                comparable, records = across_tokenizers(measures)
                plan = make_plan(replace(probe, inputs=alignment, mask=None), comparable)
                numbers[id(alignment)] = len(self.inputs)
                self.inputs.append(ReferenceInputs(plan, comparable, records))
            self._numbers[label] = numbers[id(alignment)]

    @cached_property
    def fingerprint(self) -> int:
        """A number that another probe set, or the same one read in another way, does not share."""
        probe = self.inputs[0].plan.probe
        options = (probe.pool, probe.control, probe.n_units, probe.channels, self.precision)
        digest = hashlib.sha256(repr(options).encode())
        for tensor in (probe.inputs, probe.mask):
            if isinstance(tensor, Tensor):
                digest.update(repr((tensor.shape, tensor.dtype)).encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return int.from_bytes(digest.digest()[:7])

    @property
    def length(self) -> int | None:
        """Tokens per sequence that the model in training reads; None for inputs that are not tokens."""
        return tokens_per_sequence(self.inputs[0].plan.probe.inputs_a)

    def length_for(self, label: str) -> int | None:
        """Return how many tokens per sequence a reference reads."""
        return tokens_per_sequence(self.inputs_for(label).plan.probe.inputs_b)

    def number(self, label: str) -> int:
        """Return the number of the inputs on which a reference is compared; 0 for the probe set itself."""
        return self._numbers.get(label, 0)

    def inputs_for(self, label: str) -> ReferenceInputs:
        """Return the inputs on which a reference is compared."""
        return self.inputs[self.number(label)]

    def read(
        self, training: TrainingState, model: nn.Module, sites: Sequence[str], inputs: ReferenceInputs
    ) -> ModelActivations:
        """Return the activations of a model on this process's share of the probe set, in the probe's precision."""
        plan = inputs.plan
        if is_sharded(model):
            chunks = self._share_of_sharded(training, model, sites, inputs)
        else:
            with together(training.sync), self._running(training, model):
                slices = self.own_slices(training, inputs)
                read = read_chunks(model, _inputs_of(model, training, plan), sites, plan, slices=slices)
                # a model may lie on several devices
                chunks = [
                    ({site: values.to(training.device) for site, values in acts.items()}, units) for acts, units in read
                ]
        return ModelActivations(plan, sites, chunks, sync=training.sync).summed()

    def _share_of_sharded(
        self, training: TrainingState, model: nn.Module, sites: Sequence[str], inputs: ReferenceInputs
    ) -> Chunks:
        """Return this process's share of the activations of a model that all processes run on the whole probe set.

        Raises:
            ValueError: the processes have different parts of the activations of a site.
        """
        plan, chunks, first = inputs.plan, [], {}
        with together(training.sync), self._running(training, model):
            units = {unit for _, _, unit in self.own_slices(training, inputs)}
            for acts, chunk_units in read_chunks(model, _inputs_of(model, training, plan), sites, plan):
                first = first or {site: _corner(values) for site, values in acts.items()}
                chunk = of_units(acts, chunk_units, units)
                chunks += [] if chunk is None else [chunk]
        corners = gathered(first, training.sync)
        for site, corner in first.items():
            if not all(_is_close(corner, other[site]) for other in corners):
                raise ValueError(
                    f"each process has another part of the activations at {site}: let the plan of the tensor "
                    "parallelism return them as DTensors (use_local_output=False), or choose a site that all of them "
                    "have, such as resid_post"
                )
        return chunks

    def own_slices(self, training: TrainingState, inputs: ReferenceInputs) -> list[Slice]:
        """Return this process's slices of the probe set.

        Raises:
            ValueError: there are fewer units than processes.
        """
        slices = slices_of_process(inputs.plan.slices, training.rank, training.world_size)
        if not slices:
            raise ValueError(
                f"expected at least one unit of the probe set per process, found {inputs.plan.n_units} for "
                f"{training.world_size} processes; pass at least {2 * training.world_size} sequences"
            )
        return slices

    def fix_positions(
        self, training: TrainingState, models: Iterable[tuple[str | None, nn.Module, Sequence[str]]], path: Path
    ) -> dict[str | None, str]:
        """Fix which positions ``drop_top_norm`` drops: as training starts, for all of its continuations.

        Args:
            training: state of the training.
            models: label, model and sites of each model; the label of the one in training is None.
            path: file that holds the positions, unless the training starts here.

        Returns:
            Why a model cannot run, by label. Norms of such a reference do not count; without the model in training,
            there are no positions.
        """
        faults: dict[str | None, str] = {}
        if training.step and path.exists():
            positions = read_tensors(path)
        else:
            norms: list[dict[tuple[str | None, str], Tensor]] = [{} for _ in self.inputs]
            for label, model, sites in models:
                try:
                    with together(training.sync):
                        for number in range(len(self.inputs)) if label is None else [self.number(label)]:
                            norms[number] |= self._norms(training, label, model, sites, self.inputs[number])
                except Exception as error:
                    faults[label] = described(error)
                    if label is None:
                        return faults
            positions = {
                str(number): inputs.plan.probe.remaining_positions(norms[number]).contiguous()
                for number, inputs in enumerate(self.inputs)
            }
            if training.is_first:
                path.parent.mkdir(exist_ok=True)
                write_tensors(positions, path)
        for number, inputs in enumerate(self.inputs):
            inputs.plan = inputs.plan.with_positions(positions[str(number)])
        return faults

    def _norms(
        self,
        training: TrainingState,
        label: str | None,
        model: nn.Module,
        sites: Sequence[str],
        inputs: ReferenceInputs,
    ) -> dict[tuple[str | None, str], Tensor]:
        """Return the norms of a model's samples on the whole probe set, (label, site) -> (sequences, positions)."""
        plan = inputs.plan
        with together(training.sync), self._running(training, model):
            slices = None if is_sharded(model) else self.own_slices(training, inputs)
            model_inputs = _inputs_of(model, training, plan)
            norms = norms_of(read_chunks(model, model_inputs, sites, plan.for_norms(), slices=slices))
        shares = gathered(norms, training.sync and slices is not None)
        return {(label, site): torch.cat([share[site] for share in shares]) for site in sites}

    @contextmanager
    def _running(self, training: TrainingState, model: nn.Module) -> Iterator[None]:
        """Move a reference to the device of the model in training and set the probe's precision, for a while.

        What trains never moves, nor does a reference that lies on several devices. Training in half or double precision
        changes the default dtype; a reference keeps its own.
        """
        homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
        dtype, moves = torch.get_default_dtype(), len(homes) == 1 and not _is_part_of(model, training.model)
        try:
            with self._autocast(training), nullcontext() if model is training.model else _default_dtype(dtype):
                if moves:
                    model.to(training.device)
                yield
        finally:
            if moves:
                model.to(homes.pop())

    def _autocast(self, training: TrainingState) -> AbstractContextManager[Any]:
        if self.precision is None:
            return training.autocast()
        dtype = PRECISIONS[self.precision]
        if dtype == torch.float32:
            return torch.autocast(training.device.type, enabled=False)
        return torch.autocast(training.device.type, dtype=dtype)


def _is_part_of(model: nn.Module, other: nn.Module) -> bool:
    """Return whether models share a parameter, as a model without its adapters does; or one is sharded."""
    shared = {id(parameter) for parameter in other.parameters()}
    return is_sharded(model) or any(id(parameter) in shared for parameter in model.parameters())


def _corner(values: Tensor) -> Tensor:
    """Return the first numbers of the first samples, by which processes recognize the same activations."""
    return values.flatten(0, -2)[:8, :8].float().nan_to_num().cpu()


def _is_close(corner: Tensor, other: Tensor) -> bool:
    """Return whether two processes have the same activations up to what the order of a sum changes."""
    return corner.shape == other.shape and bool((corner - other).norm() <= 0.05 * corner.norm() + 1e-12)


def _inputs_of(model: nn.Module, training: TrainingState, plan: Plan) -> Inputs:
    inputs = plan.probe.inputs_a if model is training.model else plan.probe.inputs_b
    assert inputs is not None
    return inputs


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create tensors in a precision, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_probe(plan: Plan, measures: Sequence[Measure]) -> None:
    """Reject a probe set of tokens on which a measure would fail at every tick; other faults show in the records."""
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
    faults += [
        f"{measure.label} needs {measure.minimum_samples} sequences, and the probe set has {len(probe)}: pass more, or "
        "take the measure with units='sample'"
        for measure in measures
        if measure.by_sequence and len(probe) < measure.minimum_samples <= have
    ]
    if faults:
        raise ValueError("\n".join(faults))
