"""What a callback or logger may know of the run it belongs to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig
from torch import Tensor, nn

from dissimilarity.probe.alignment import Alignment


class References(Protocol):
    """The references of a run."""

    @property
    def load(self) -> Callable[[str], nn.Module]:
        """Return the function that turns a URI into a module."""
        ...

    @property
    def alignments(self) -> Mapping[str, Alignment]:
        """Return the alignments of the references with other tokenizers, by URI."""
        ...


@dataclass(frozen=True)
class Run:
    """A run that is about to train. Callbacks and loggers of the config that take an argument ``run`` get it.

    Attributes:
        cfg: config of the run.
        folder: folder of the run.
        provenance: content of provenance.json.
        data: DataModule, set up.
        module: LightningModule that trains.
        find_references: loads the references of the config for a probe set.
        beside_others: whether other jobs of a sweep train at the same time and print to the same terminal.
    """

    cfg: DictConfig
    folder: Path
    provenance: Mapping[str, Any]
    data: Any
    module: Any
    find_references: Callable[[Tensor], References]
    beside_others: bool = False

    def probe_tokens(self, sequences: int) -> Tensor:
        """Return a number of token sequences from the split of the probe set."""
        return self.data.probe(sequences, self.cfg.probe.length, self.cfg.probe.split)

    @cached_property
    def probe(self) -> Tensor:
        """Tokens of the probe set, (sequences, positions)."""
        return self.probe_tokens(self.cfg.probe.sequences)

    @cached_property
    def mask(self) -> Tensor | None:
        """Real positions of the probe set; None where padding counts too."""
        return None if self.cfg.include_padding else self.module.real(self.probe)

    @cached_property
    def references(self) -> References:
        """The references of the config, loaded once for all callbacks."""
        return self.find_references(self.probe)

    @property
    def tokens_per_step(self) -> int:
        """Tokens per update."""
        return self.data.tokens_per_step * self.cfg.trainer.accumulate_grad_batches


@runtime_checkable
class Summarized(Protocol):
    """A callback that has something for summary.json."""

    def summary(self) -> dict[str, Any]:
        """Return entries of summary.json."""
        ...
