"""The activations of references while a model trains: in memory, on disk above a size, and across interruptions.

Without a file of one of the model's own earlier states, the checkpoint of that step is read, if there is one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from dissimilarity.comparison.activations import (
    FINGERPRINT,
    IN_MEMORY,
    Chunks,
    ModelActivations,
    load_chunks,
    save_chunks,
)
from dissimilarity.moments.agreement import gathered, together
from dissimilarity.tables.seal import read_tensors
from dissimilarity.tracking.owner import Owner
from dissimilarity.tracking.probe_reader import ProbeReader
from dissimilarity.tracking.training_state import TrainingState
from dissimilarity.tracking.weights import step_file, step_weights

log = logging.getLogger(__name__)


class ReferenceStore:
    """The files ``NAME-RANK.safetensors`` of a folder, one per reference and process.

    Args:
        folder: folder of the files.
        reader: runs models on the probe set.
        checkpoints: folder of the weights of the model in training at earlier steps.

    Attributes:
        owner: tells whether the files belong to this training.
    """

    def __init__(self, folder: Path, reader: ProbeReader, checkpoints: Path) -> None:
        self.folder, self.reader, self.checkpoints = folder, reader, checkpoints
        self.owner = Owner(folder / "training.safetensors")

    def begin(self, step: int) -> None:
        """Delete the states of another training, whose folder this one takes over, or of steps that are repeated."""
        states = list(self.folder.glob("previous-*.safetensors"))
        if not step:
            self.owner.begin([*self.folder.glob("init-*"), *states])
        else:
            self.owner.delete(file for file in states if _step_of(file) > step)

    def path(self, training: TrainingState, name: str) -> Path:
        """Return the file in which this process stores its share of a reference."""
        return self.folder / f"{name}-{training.rank:03d}.safetensors"

    def save(self, training: TrainingState, step: int, activations: ModelActivations) -> None:
        """Save a state of the model; if that fails, a continuation needs the checkpoint of that step."""
        try:
            save_chunks(activations.chunks, self.path(training, _name(step)), self.reader.fingerprint)
        except Exception as error:
            log.warning(
                "could not save the activations of step %d (%s); a continuation needs %s instead",
                step,
                error,
                step_file(self.checkpoints, step),
            )

    def save_states(self, training: TrainingState, states: Mapping[int, ModelActivations]) -> None:
        """Save states of the model, unless they have files."""
        for step, activations in states.items():
            if not self.path(training, _name(step)).exists():
                self.save(training, step, activations)

    def delete_states(self, training: TrainingState, is_needed: Callable[[int], bool]) -> None:
        """Delete the files of states at steps that are not needed any more."""
        for file in self.folder.glob(f"previous-*-{training.rank:03d}.safetensors"):
            if not is_needed(_step_of(file)):
                try:
                    file.unlink()
                except OSError as error:
                    log.warning("could not delete %s: %s", file, error)

    def read_frozen(
        self, training: TrainingState, label: str, number: int, model: nn.Module, sites: list[str]
    ) -> ModelActivations:
        """Return the activations of a frozen reference, in memory or, above a size, mapped from a file.

        Args:
            training: state of the training.
            label: label of the reference.
            number: number of the reference, which names the file, because a label may be the name of another file.
            model: the reference.
            sites: its sites.
        """
        inputs = self.reader.inputs_for(label)
        activations = self.reader.read(training, model, sites, inputs)
        if activations.nbytes() <= IN_MEMORY:
            return activations
        with together(training.sync):
            return activations.on_disk(self.path(training, f"reference-{number}"), training.device)

    def recall(self, training: TrainingState, step: int, sites: list[str]) -> ModelActivations:
        """Return the model's activations at an earlier step, from their files or from the weights of that step.

        Args:
            training: state of the training.
            step: the earlier step.
            sites: sites of the model.

        Raises:
            ValueError: there are neither files nor weights, or they belong to another training.
        """
        inputs = self.reader.inputs[0]
        with together(training.sync):
            self.owner.check()
        chunks = self._chunks(training, _name(step), sites)
        if all(gathered(chunks is not None, training.sync)):
            assert chunks is not None
            return ModelActivations(inputs.plan, sites, chunks, sync=training.sync).summed()
        with together(training.sync):
            try:
                weights = step_weights(self.checkpoints, step)
            except ValueError as error:
                raise ValueError(f"{error}{self._without_sites(training, step, sites)}") from error
        with _with_weights(training.model, weights):
            return self.reader.read(training, training.model, sites, inputs)

    def _without_sites(self, training: TrainingState, step: int, sites: list[str]) -> str:
        """Return which sites saved activations lack, and what to do; empty if they are gone or lack none."""
        try:
            names = read_tensors(self.path(training, _name(step))).keys() - {FINGERPRINT}
        except Exception:
            return ""
        lacking = [site for site in sites if site not in {name.split(":", 3)[3] for name in names}]
        if not lacking:
            return ""
        return (
            f"; its activations are there, without those at {', '.join(lacking)}: leave these out of sites to keep the "
            "curves of the others"
        )

    def _chunks(self, training: TrainingState, name: str, sites: list[str]) -> Chunks | None:
        """Return this process's share of saved activations; None if a file is gone, damaged, or of another probe."""
        units = {unit for _, _, unit in self.reader.own_slices(training, self.reader.inputs[0])}
        paths = sorted(self.folder.glob(f"{name}-[0-9][0-9][0-9].safetensors"))
        try:
            chunks = load_chunks(paths, training.device, units, self.reader.fingerprint)
        except Exception as error:
            log.warning("could not read the activations of %s (%s); looking for its checkpoint instead", name, error)
            return None
        has_sites = all(acts.keys() >= set(sites) for acts, _ in chunks)
        return chunks if has_sites and {unit for _, part in chunks for unit in part} == units else None


def _name(step: int) -> str:
    """Return the name of the files of the model as it was at a step."""
    return f"previous-{step}" if step else "init"


def _step_of(file: Path) -> int:
    """Return the step of a file of an earlier state."""
    return int(file.stem.split("-")[1])


@contextmanager
def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model other weights for a while."""
    current = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(weights)
        yield
    finally:
        model.load_state_dict(current)
