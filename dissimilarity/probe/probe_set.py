"""The probe set: the inputs on which models are compared, the positions that count, and the number of units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.arguments import shown, whole
from dissimilarity.probe.batched_inputs import as_inputs
from dissimilarity.probe.batches import Inputs, extent
from dissimilarity.probe.outliers import NO_CONTROL, Control, control_of, normalized, without_top_norms
from dissimilarity.probe.padded_inputs import PaddedInputs, rolled, text_starts
from dissimilarity.probe.padding import as_mask, check_mask
from dissimilarity.probe.pooling import pool
from dissimilarity.probe.sampling import sampled_positions
from dissimilarity.probe.site_layout import Channels, place_at

Pool = Literal["none", "mean", "first", "last"]


class Extent(NamedTuple):
    """The size of a probe set: number of sequences, and tokens per sequence."""

    sequences: int
    length: int


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """The inputs on which models are compared: the same text, positions and units for both sides.

    Attributes:
        inputs: (sequences, positions) of tokens, or any inputs whose first dimension counts independent sequences; an
            ``Alignment`` for two models that read the text in different tokens, whose units become the positions. Where
            only saved activations are compared, their extent, or None to take it from them.
        mask: True at real positions; padding is ignored everywhere. None if all are real; a mask that is all True is
            dropped. If one sequence has most of the samples of a unit, units are merged.
        pool: ``none``: each position is a sample; ``mean``, ``first`` or ``last``: one sample per sequence.
        positions: how many of the positions that count are used, the same in every sequence; None for all of them.
        control: which positions can count at all, and how their samples are scaled.
        n_units: None: error bars take each sequence as a unit (groups of them above 128), from a second pass over the
            activations, which are stored for it. A number: units are that many groups of whole sequences, with sums
            per unit, so that activations are read once; 1 for no error bars.
        kept_positions: the positions of each sequence that remain of those that can count, where ``control`` drops some
            for their norms; None before the norms are known.
        channels: where features are at sites with more than one dimension per sequence: ``first`` for (sequences,
            features, positions, ...), ``last`` for (sequences, ..., features), or a mapping of names or globs of sites
            to these. By default it follows from the modules before a site; if they do not determine it, an error asks
            for it.
        starts: the first real position of each sequence, from which ``control`` counts; None where all are 0. It
            follows from the mask.

    Raises:
        ValueError: an unknown pool, no whole number above 0, a mask that does not fit or leaves no position of a
            sequence, a mask beside an alignment or beside ``positions``.

    >>> import torch
    >>> probe = ProbeSet(torch.zeros(8, 16, dtype=torch.long), pool="mean", n_units=4)
    >>> probe.extent
    Extent(sequences=8, length=16)
    """

    inputs: Tensor | Alignment | Extent | None
    mask: Bool[Tensor, "sequences positions"] | None = None
    pool: Pool = "none"
    positions: int | None = None
    control: Control = NO_CONTROL
    n_units: int | None = None
    kept_positions: Int[Tensor, "sequences kept"] | None = None
    channels: Channels = None
    starts: Int[Tensor, " sequences"] | None = None

    def __post_init__(self) -> None:
        if self.pool not in get_args(Pool):
            choices = get_args(Pool)
            raise ValueError(f"expected pool {', '.join(choices[:-1])} or {choices[-1]}, found {self.pool!r}")
        if self.positions is not None:
            object.__setattr__(self, "positions", whole("positions", self.positions, of="a whole number, or None"))
        object.__setattr__(self, "control", control_of(self.control))
        if self.n_units is not None and (
            isinstance(self.n_units, bool) or not isinstance(self.n_units, Integral) or self.n_units < 1
        ):
            raise ValueError(
                f"expected a whole number of units, 1 or more, for the error bars, found n_units={self.n_units!r}; "
                "None, one unit per sequence, is usual"
            )
        if self.n_units is not None:
            object.__setattr__(self, "n_units", int(self.n_units))
        for site in self.channels if isinstance(self.channels, Mapping) else ("every site",):
            if not isinstance(site, str):
                raise ValueError(f"channels: expected sites such as 'blocks.*.resid_post' as keys, found {shown(site)}")
            place_at(site, self.channels)
        if self.is_aligned:
            object.__setattr__(self, "starts", None)
        if self.mask is None or self.inputs is None:
            return
        if self.is_aligned:
            raise ValueError("expected no mask beside an alignment, whose units are all real; leave it out")
        sequences, length = extent(self.inputs) if isinstance(self.inputs, Tensor) else self.extent
        object.__setattr__(self, "mask", as_mask(self.mask))
        check_mask(self.mask, sequences, length if length > 1 else None)
        # Without padding, every number is that of a probe set without a mask, to the last bit.
        object.__setattr__(self, "mask", None if bool(self.mask.all()) else self.mask.cpu())
        starts = None if self.mask is None else text_starts(self.mask)
        object.__setattr__(self, "starts", starts if starts is not None and bool(starts.any()) else None)
        if self.mask is not None and self.positions is not None:
            raise ValueError("expected a mask or a number of positions, found both; use fewer with control.every")
        self._check_counts()

    @property
    def is_aligned(self) -> bool:
        """Whether the two models read the text in different tokens."""
        return isinstance(self.inputs, Alignment)

    @property
    def extent(self) -> Extent:
        """Number of sequences, and tokens per sequence if these decide how many sequences run together."""
        if isinstance(self.inputs, Alignment):
            return Extent(*self.inputs.extent)
        if isinstance(self.inputs, Tensor):
            return Extent(*extent(self._run_on(self.inputs)))
        if self.inputs is None:
            raise ValueError("expected tokens to run models on, found none; pass them as inputs")
        return self.inputs

    @property
    def inputs_a(self) -> Inputs | None:
        """Inputs of the first model; None for saved activations."""
        if isinstance(self.inputs, Alignment):
            return self.inputs.a
        return self._run_on(self.inputs) if isinstance(self.inputs, Tensor) else None

    @property
    def inputs_b(self) -> Inputs | None:
        """Inputs of the second model; None for saved activations."""
        return self.inputs.b if isinstance(self.inputs, Alignment) else self.inputs_a

    def _run_on(self, inputs: Tensor) -> Tensor | PaddedInputs:
        """Return inputs with their mask, if it is one of their positions."""
        if self.mask is None or inputs.ndim < 2 or inputs.shape[1] != self.mask.shape[1]:
            return inputs
        return PaddedInputs(inputs, self.mask)

    @cached_property
    def sample_counts(self) -> Int[Tensor, " sequences"] | None:
        """Samples of each sequence at sites that have positions; None where all sequences have equally many."""
        if self.mask is None:
            return None
        return self._countable(self.mask).sum(1) - self.control.drop_top_norm

    @property
    def sample_positions(self) -> Int[Tensor, " samples"] | None:
        """Position of each sample, counted from the first real one; None where all sequences have the same ones."""
        if self.pool != "none":
            return None
        if self.mask is None:
            # Those of the sites: units of text of an alignment, and not the tokens of its inputs.
            kept = self.kept_positions
            return None if kept is None else (self.control.skip_first + self.control.every * kept).flatten()
        columns = torch.arange(self.mask.shape[1]).expand(self.mask.shape)[..., None]
        positions, real = self.select_positions(columns, slice(None))
        if self.starts is not None:
            positions = positions - self.starts[:, None, None]
        assert real is not None
        return positions[real].flatten()

    def samples(self, activation: Tensor, sequences: slice | list[int] = slice(None)) -> Tensor:
        """Select the samples of one site from its activations.

        Args:
            activation: (sequences, positions, d), or (sequences, d) of a site without positions.
            sequences: which sequences of the probe set these are.

        Returns:
            (sequences, n, d), or (sequences, d) where the site has no positions or they are pooled. Where a mask makes
            sequences of unequal length, the samples of all of them concatenated, (1, n, d).

        Raises:
            ValueError: positions have to be chosen, and there are none or too few.
        """
        if activation.ndim < 3:
            if self.control.selects_positions:
                raise ValueError(
                    "control.skip_first, control.every and control.drop_top_norm choose positions of sequences, and "
                    f"activations of shape {tuple(activation.shape)} have none; choose other sites, or leave them out"
                )
            return normalized(activation, self.control.normalize)
        activation, real = self.select_positions(activation, sequences)
        if self.pool != "none":
            activation = pool(activation.float() if self.pool == "mean" else activation, real, self.pool)
        elif real is not None:
            activation = activation[real][None]
        elif self.positions is not None and self.positions < activation.shape[1]:
            count = self.extent.sequences
            activation = activation[:, sampled_positions(count, activation.shape[1], self.positions * count)]
        return normalized(activation, self.control.normalize)

    def select_positions(
        self, activation: Tensor, sequences: slice | list[int]
    ) -> tuple[Tensor, Bool[Tensor, "part positions"] | None]:
        """Select the positions that count, and say which of them are real; activations without positions stay.

        Each sequence then begins with its first real position.
        """
        if activation.ndim < 3:
            return activation, None
        real = None
        if self.mask is not None:
            if activation.shape[1] != self.mask.shape[1]:
                raise ValueError(
                    f"expected a mask of as many positions as the sites have, found {self.mask.shape[1]} and "
                    f"{activation.shape[1]}; choose other sites, or leave the mask out"
                )
            real = self.mask[sequences].to(activation.device)
        if self.starts is not None:
            starts = self.starts[sequences]
            activation, real = rolled(activation, starts), None if real is None else rolled(real, starts)
        if not self.control.selects_positions:
            return activation, real
        selected = self._controlled(activation, sequences)
        return selected, None if real is None else self._controlled(real[..., None], sequences)[..., 0]

    def _controlled(self, activation: Tensor, sequences: slice | list[int]) -> Tensor:
        """Select the positions that the outlier control leaves, of sequences that begin with their first real one."""
        allowed = self.control.positions(activation.shape[1])
        if not self.control.drop_top_norm:
            return activation[:, allowed.to(activation.device)]
        remaining = self.kept_positions
        if remaining is None or remaining.shape[1] != len(allowed) - self.control.drop_top_norm:
            raise ValueError(
                f"control.drop_top_norm={self.control.drop_top_norm}: no norms say which of {activation.shape[1]} "
                "positions to drop; choose sites of as many positions as the others have"
            )
        index = allowed[remaining[sequences]].to(activation.device)
        return activation.take_along_dim(index[..., None], 1)

    def for_norms(self) -> "ProbeSet":
        """Return the probe set whose norms decide what is dropped: every position that can count, unchanged."""
        control = replace(self.control, drop_top_norm=0, normalize="none")
        return replace(self, mask=None, pool="none", positions=None, control=control, kept_positions=None)

    def remaining_positions(self, norms: Mapping[Any, Tensor]) -> Int[Tensor, "sequences kept"]:
        """Return the positions that remain, from the norms of all that can count, as read by ``for_norms``."""
        real = None if self.mask is None else self._countable(self.mask)
        return without_top_norms(norms, self.control.drop_top_norm, real)

    def _countable(self, mask: Bool[Tensor, "sequences positions"]) -> Bool[Tensor, "sequences countable"]:
        """Return which of the positions that can count are real, counted from the first real one."""
        mask = mask if self.starts is None else rolled(mask, self.starts)
        return mask[:, self.control.positions(mask.shape[1])]

    def _check_counts(self) -> None:
        """Check that every sequence keeps a real position."""
        counts = self.sample_counts
        if self.mask is None or counts is None or bool((counts >= 1).all()):
            return
        emptied = (counts < 1).nonzero().flatten().tolist()
        raise ValueError(
            f"control.skip_first={self.control.skip_first}, control.every={self.control.every} and "
            f"control.drop_top_norm={self.control.drop_top_norm} leave no real position of {len(emptied)} sequences, "
            f"such as sequence {emptied[0]} with {int(self.mask[emptied[0]].sum())}; lower them, or "
            "leave those sequences out"
        )


class ProbeOptions(TypedDict, total=False):
    """Attributes of a ``ProbeSet`` that ``compare`` and ``compare_many`` also take beside plain tokens."""

    mask: Bool[Tensor, "sequences positions"] | None
    pool: Pool
    positions: int | None
    control: Control
    n_units: int | None
    channels: Channels


Tokens = Tensor | Mapping[str, Any] | Iterable[Any] | Alignment | ProbeSet | None
"""Inputs to compare on, in the forms that users pass: also the output of a tokenizer, or batches of inputs."""


def as_probe_set(tokens: Tokens, **options: Unpack[ProbeOptions]) -> ProbeSet:
    """Return the probe set that tokens and the convenience keywords of ``compare`` describe.

    Args:
        tokens: inputs of a probe set, also as ``as_inputs`` takes them, or a probe set.
        **options: attributes of a probe set.

    Raises:
        ValueError: keywords beside a probe set, which has them already.
        TypeError: an unknown keyword.
    """
    unknown = sorted(options.keys() - ProbeOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"{unknown[0]}: unknown argument; expected {', '.join(ProbeOptions.__annotations__)}")
    if isinstance(tokens, np.ndarray):
        tokens = torch.from_numpy(tokens)
    if tokens is not None and not isinstance(tokens, (Tensor, Alignment, ProbeSet)):
        tokens, mask = as_inputs(tokens)
        options = {"mask": mask, **options}
    if not isinstance(tokens, ProbeSet):
        return ProbeSet(tokens, **options)
    if options:
        raise ValueError(f"expected {', '.join(options)} in the ProbeSet, found beside it; pass ProbeSet(inputs, ...)")
    return tokens
