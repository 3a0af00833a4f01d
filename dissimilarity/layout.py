"""How a probe set is cut and read: which sequences go together, which positions count, what measures need of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dissimilarity.chunks import Slice, at_once, extent, plan
from dissimilarity.measure import Measure
from dissimilarity.moment_measure import MomentMeasure
from dissimilarity.output_measure import OutputMeasure
from dissimilarity.pairs import Cross, Pair, Side
from dissimilarity.sample_measure import SampleMeasure
from dissimilarity.sampling import sampled_positions
from dissimilarity.sites import LOGITS

Pool = Literal["none", "mean", "last"]


@dataclass(frozen=True)
class Layout:
    """The cut of a probe set and the sampling policy.

    Attributes:
        sequences: number of sequences over all processes.
        slices: their chunks.
        length: tokens of each sequence, as far as they say how many sequences are run at once.
        samples: most rows that a sample measure sees; 0 without such measures.
        moments: whether a measure reads sums.
        outputs: whether a measure compares what the models put out, read at the site ``logits``.
        pool: each position a sample, or one sample a sequence: the mean over its positions, or its last one.
        positions: how many positions of each sequence count, the same in all; None for every one.
    """

    sequences: int
    slices: list[Slice]
    length: int
    samples: int
    moments: bool
    outputs: bool
    pool: Pool
    positions: int | None

    @property
    def groups(self) -> int:
        """Number of jackknife groups."""
        return 1 + self.slices[-1][2]

    def side(self, sites: Sequence[str], sync: bool = False) -> Side:
        """An empty side for a model of which the user chose these sites."""
        outputs = frozenset({LOGITS} - set(sites)) if self.outputs else frozenset()
        return Side(self.groups, self.samples, self.sequences, sync, self.moments, outputs)

    def cross(self, pairs: Sequence[Pair], sync: bool = False, errors: bool = True) -> Cross:
        """Empty sums over pairs, with those per group or without."""
        return Cross(pairs, self.groups if errors and self.groups > 1 else 0, sync, self.moments)

    def captured(self, sites: Sequence[str]) -> list[str]:
        """The sites at which a model is read."""
        return [*sites, *({LOGITS} - set(sites) if self.outputs else ())]

    def reader(self, sites: Sequence[str]) -> Callable[[str, Tensor], Tensor]:
        """What turns the activations at a site, of which the user chose some, into samples."""
        return lambda site, activation: self.read(activation, site in sites)

    def read(self, activation: Tensor, chosen: bool = True) -> Tensor:
        """The samples of one site: (sequences, ..., d), of images (sequences, channels, ...) -> (sequences, n, d).

        Args:
            activation: as the model gave it; four and more dimensions are read as torch's convolutions give them.
            chosen: whether the user chose the site; else only the rows that the sample measures see are kept.
        """
        if activation.ndim > 3:
            activation = activation.movedim(1, -1).flatten(1, -2)
        if activation.ndim < 3:
            return activation
        if not chosen:
            return activation[:, sampled_positions(self.sequences, activation.shape[1], self.samples)]
        if self.pool == "mean":
            return activation.float().mean(1)
        if self.pool == "last":
            return activation[:, -1]
        if self.positions is not None and self.positions < activation.shape[1]:
            wanted = self.positions * self.sequences
            return activation[:, sampled_positions(self.sequences, activation.shape[1], wanted)]
        return activation


def lay_out(
    inputs: Tensor | tuple[int, int],
    measures: Sequence[Measure],
    groups: int,
    pool: Pool = "none",
    positions: int | None = None,
) -> Layout:
    """The layout of a probe set for some measures.

    Args:
        inputs: the probe set, or how many sequences it has and of how many positions each.
        measures, groups, pool, positions: as for ``compare``.

    Raises:
        ValueError: measures that tables could not tell apart, an unknown pool, fewer than 2 sequences.
    """
    labels = [measure.label for measure in measures]
    if len(set(labels)) < len(labels):
        raise ValueError(f"expected measures of different labels, found {labels}; leave out the duplicates")
    if pool not in ("none", "mean", "last"):
        raise ValueError(f"expected pool none, mean or last, found {pool!r}")
    if positions is not None and positions < 1:
        raise ValueError(f"expected positions None or a whole number, 1 or more, found {positions}")
    sequences, length = inputs if isinstance(inputs, tuple) else extent(inputs)
    return Layout(
        sequences=sequences,
        slices=plan(sequences, groups, at_once(length)),
        length=length,
        samples=max((measure.samples for measure in measures if isinstance(measure, SampleMeasure)), default=0),
        moments=any(isinstance(measure, MomentMeasure) for measure in measures),
        outputs=any(isinstance(measure, OutputMeasure) for measure in measures),
        pool=pool,
        positions=positions,
    )
