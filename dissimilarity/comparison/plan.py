"""How a probe set is cut and read: which sequences go together, which positions count, what measures need of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dissimilarity.capture.sites import LOGITS
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.base.sample_measure import SampleMeasure
from dissimilarity.moments.cross import Cross, Pair
from dissimilarity.moments.side import Side
from dissimilarity.probe.batches import Slice, at_once, extent, plan
from dissimilarity.probe.outliers import NO_CONTROL, Control, normalized, without_top_norms
from dissimilarity.probe.padding import Uneven, check_mask, pooled, uneven_plan
from dissimilarity.probe.sampling import sampled_positions

Pool = Literal["none", "mean", "first", "last"]


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
        pool: each position a sample, or one sample a sequence: the mean over its positions, its first or its last one.
        positions: how many positions of each sequence count, the same in all; None for every one.
        control: which positions can count at all, and what is done to their rows.
        kept: the positions of each sequence that do, where `control` drops some by their norms; None before they were
            looked at.
        mask: which positions are real; None where all are.
        uneven: how many rows that makes of each sequence.
    """

    sequences: int
    slices: list[Slice]
    length: int
    samples: int
    moments: bool
    outputs: bool
    pool: Pool
    positions: int | None
    control: Control = NO_CONTROL
    kept: Int[Tensor, "sequences kept"] | None = field(default=None, compare=False)
    mask: Bool[Tensor, "sequences positions"] | None = field(default=None, compare=False)
    uneven: Uneven | None = field(default=None, compare=False)

    @property
    def groups(self) -> int:
        """Number of jackknife groups."""
        return 1 + self.slices[-1][2]

    @property
    def apart(self) -> bool:
        """Whether the rows of groups come group by group, for they have unequally many."""
        return self.uneven is not None

    def side(self, sites: Sequence[str], sync: bool = False) -> Side:
        """An empty side for a model of which the user chose these sites."""
        outputs = frozenset({LOGITS} - set(sites)) if self.outputs else frozenset()
        return Side(self.groups, self.samples, self.sequences, sync, self.moments, outputs, self.uneven)

    def cross(self, pairs: Sequence[Pair], sync: bool = False, errors: bool = True) -> Cross:
        """Empty sums over pairs, with those per group or without."""
        return Cross(pairs, self.groups if errors else 0, sync, self.moments)

    def captured(self, sites: Sequence[str]) -> list[str]:
        """The sites at which a model is read."""
        return [*sites, *({LOGITS} - set(sites) if self.outputs else ())]

    def reader(self, sites: Sequence[str]) -> Callable[[str, Tensor, slice], Tensor]:
        """What turns the activations at a site, of some of the sequences, into samples; the user chose some sites."""
        return lambda site, activation, of: self.read(activation, site in sites, of)

    def read(self, activation: Tensor, chosen: bool = True, of: slice | list[int] = slice(None)) -> Tensor:
        """The samples of one site: (sequences, ..., d), of images (sequences, channels, ...) -> (sequences, n, d).

        Args:
            activation: as the model gave it; four and more dimensions are read as torch's convolutions give them.
            chosen: whether the user chose the site; else only the rows that the sample measures see are kept.
            of: which sequences these are.

        Raises:
            ValueError: positions are to be chosen, and there are none or too few.
        """
        if activation.ndim > 3:
            activation = activation.movedim(1, -1).flatten(1, -2)
        if activation.ndim < 3:
            if chosen and self.control.chooses:
                raise ValueError(
                    "control.skip_first, control.every and control.drop_top_norm choose positions of sequences, and "
                    f"activations of shape {tuple(activation.shape)} have none; choose other sites, or leave them out"
                )
            return normalized(activation, self.control.normalize) if chosen else activation
        real = None if self.mask is None else self._real(activation, of)
        if self.control.chooses:
            activation = self._counting(activation, of)
            real = None if real is None else self._counting(real[..., None], of)[..., 0]
        if real is not None and self.uneven is not None:
            return self._read_real(activation, real, chosen, of)
        if not chosen:
            return activation[:, sampled_positions(self.sequences, activation.shape[1], self.samples)]
        if self.pool == "mean":
            activation = activation.float().mean(1)
        elif self.pool in ("first", "last"):
            activation = activation[:, 0 if self.pool == "first" else -1]
        elif self.positions is not None and self.positions < activation.shape[1]:
            wanted = self.positions * self.sequences
            activation = activation[:, sampled_positions(self.sequences, activation.shape[1], wanted)]
        return normalized(activation, self.control.normalize)

    def _real(self, activation: Tensor, of: slice | list[int]) -> Tensor:
        """Which positions of some of the sequences are real."""
        assert self.mask is not None
        if activation.shape[1] != self.mask.shape[1]:
            raise ValueError(
                f"expected a mask of as many positions as the sites have, found {self.mask.shape[1]} and "
                f"{activation.shape[1]}; choose other sites, or leave the mask out"
            )
        return self.mask[of].to(activation.device)

    def _read_real(self, activation: Tensor, real: Tensor, chosen: bool, of: slice | list[int]) -> Tensor:
        """The real ones among the positions that count: one behind the other (1, n, d), or pooled (sequences, d)."""
        assert self.uneven is not None and isinstance(of, slice)
        if chosen and self.pool != "none":
            return normalized(pooled(activation, real, self.pool), self.control.normalize)
        rows = activation[real]
        if chosen:
            return normalized(rows, self.control.normalize)[None]
        sampled = self.uneven.sampled_among(self.uneven.before(of.start or 0), len(rows))
        return rows[sampled.to(rows.device)][None]

    def _counting(self, activation: Tensor, of: slice | list[int]) -> Tensor:
        """The positions that count, of some of the sequences."""
        allowed = self.control.positions(activation.shape[1])
        if not self.control.drop_top_norm:
            return activation[:, allowed.to(activation.device)]
        if self.kept is None or self.kept.shape[1] != len(allowed) - self.control.drop_top_norm:
            raise ValueError(
                f"control.drop_top_norm={self.control.drop_top_norm}: which of {activation.shape[1]} positions to drop "
                "was not settled; choose sites of as many positions as the others have"
            )
        index = allowed[self.kept[of]].to(activation.device)
        return activation.take_along_dim(index[..., None], 1)

    def for_norms(self) -> "Layout":
        """The layout under which the rows are read whose norms decide what is dropped: all that could count."""
        control = replace(self.control, drop_top_norm=0, normalize="none")
        return replace(self, pool="none", positions=None, outputs=False, control=control, mask=None, uneven=None)

    def without_top_norms(self, norms: Mapping[Any, Tensor]) -> Int[Tensor, "sequences kept"]:
        """Which of the positions that could count do, from the norms of all of those, as read by ``for_norms``."""
        real = None if self.mask is None else self.mask[:, self.control.positions(self.mask.shape[1])]
        return without_top_norms(norms, self.control.drop_top_norm, real)


def lay_out(
    inputs: Tensor | tuple[int, int],
    measures: Sequence[Measure],
    groups: int,
    pool: Pool = "none",
    positions: int | None = None,
    control: Control = NO_CONTROL,
    mask: Tensor | None = None,
) -> Layout:
    """The layout of a probe set for some measures.

    Args:
        inputs: the probe set, or how many sequences it has and of how many positions each.
        measures, groups, pool, positions, control, mask: as for ``compare``.

    Raises:
        ValueError: measures that tables could not tell apart, an unknown pool, fewer than 2 sequences, a mask that
            leaves nothing of a sequence or does not fit.
    """
    labels = [measure.label for measure in measures]
    if len(set(labels)) < len(labels):
        raise ValueError(f"expected measures of different labels, found {labels}; leave out the duplicates")
    if pool not in get_args(Pool):
        raise ValueError(f"expected pool {', '.join(get_args(Pool)[:-1])} or {get_args(Pool)[-1]}, found {pool!r}")
    if positions is not None and positions < 1:
        raise ValueError(f"expected positions None or a whole number, 1 or more, found {positions}")
    sequences, length = inputs if isinstance(inputs, tuple) else extent(inputs)
    slices = plan(sequences, groups, at_once(length))
    samples = max((measure.max_samples for measure in measures if isinstance(measure, SampleMeasure)), default=0)
    uneven = None
    if mask is not None:
        mask = mask.cpu()
        check_mask(mask, sequences, length if length > 1 else None)
        # Where every position is real, everything is as it is without a mask, to the last bit.
        mask = None if bool(mask.all()) else mask
    if mask is not None:
        if positions is not None:
            raise ValueError("expected a mask or a number of positions, found both; take fewer with control.every")
        counts = _counts(mask, control)
        if pool == "none":
            slices = uneven_plan(slices, counts)
        sizes = torch.tensor([stop - start for start, stop, _ in slices])
        of = torch.tensor([group for _, _, group in slices]).repeat_interleave(sizes)
        uneven = Uneven(counts, of, samples)
    return Layout(
        sequences=sequences,
        slices=slices,
        length=length,
        samples=samples,
        moments=any(isinstance(measure, MomentMeasure) for measure in measures),
        outputs=any(isinstance(measure, OutputMeasure) for measure in measures),
        pool=pool,
        positions=positions,
        control=control,
        mask=mask,
        uneven=uneven,
    )


def _counts(mask: Tensor, control: Control) -> Tensor:
    """How many rows of each sequence count."""
    counts = mask[:, control.positions(mask.shape[1])].sum(1) - control.drop_top_norm
    if bool((counts < 1).any()):
        few = (counts < 1).nonzero().flatten().tolist()
        raise ValueError(
            f"control.skip_first={control.skip_first}, control.every={control.every} and "
            f"control.drop_top_norm={control.drop_top_norm} leave no real position of {len(few)} sequences, the first "
            f"of which is sequence {few[0]} with {int(mask[few[0]].sum())}; lower them, or leave those sequences out"
        )
    return counts
