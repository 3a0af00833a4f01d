"""Outlier control: which positions count, and whether samples are brought to one scale, before any measure reads them.

A few tokens of massive norm that two models share (the first one, delimiters) make the models look alike whatever the
other tokens do: two in a thousand raise debiased CKA of independent features to 0.97. The control is the same for both
models and at all sites: the same positions, the same scaling.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dissimilarity.probe.arguments import whole

Normalize = Literal["none", "layer_norm", "unit_norm"]


@dataclass(frozen=True)
class Control:
    """Which positions of each sequence count, chosen in this order, and how their samples are scaled.

    Attributes:
        skip_first: skip this many positions at the start of each sequence.
        every: use every n-th of the remaining positions.
        drop_top_norm: drop this many of these per sequence: those of the largest norm, in units of the median norm of
            their site, at any chosen site of either model.
        normalize: ``none``; ``layer_norm``: subtract from each sample its mean and divide by its standard deviation,
            both over its dimensions; ``unit_norm``: divide each sample by its norm. Applied last, after any pooling.

    Raises:
        ValueError: a number out of range, an unknown normalization.

    >>> Control(skip_first=1, every=3).positions(8).tolist()
    [1, 4, 7]
    """

    skip_first: int = 0
    drop_top_norm: int = 0
    every: int = 1
    normalize: Normalize = "none"

    def __post_init__(self) -> None:
        for key, minimum in (("skip_first", 0), ("drop_top_norm", 0), ("every", 1)):
            object.__setattr__(self, key, whole(f"control.{key}", getattr(self, key), minimum))
        if self.normalize not in get_args(Normalize):
            choices = ", ".join(get_args(Normalize))
            raise ValueError(f"control.normalize={self.normalize}: expected one of {choices}")

    @property
    def selects_positions(self) -> bool:
        """Whether some positions do not count."""
        return (self.skip_first, self.drop_top_norm, self.every) != (0, 0, 1)

    def positions(self, length: int) -> Int[Tensor, " positions"]:
        """Return the positions of sequences of this length that count before any is dropped for its norm.

        Raises:
            ValueError: none would remain.
        """
        positions = torch.arange(self.skip_first, length, self.every)
        if len(positions) <= self.drop_top_norm:
            raise ValueError(
                f"control.skip_first={self.skip_first}, control.every={self.every} and "
                f"control.drop_top_norm={self.drop_top_norm} leave none of {length} positions of a sequence; lower "
                "them, or pass longer sequences"
            )
        return positions


NO_CONTROL = Control()
"""Every position counts, and samples keep their scale."""


def control_of(values: Control | Mapping[str, Any]) -> Control:
    """Return a control, given as such or by its values by name.

    Raises:
        ValueError: neither, or an unknown name.
    """
    if isinstance(values, Control):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"expected control as Control(...) or a mapping such as {{'skip_first': 1}}, found {values!r}")
    names = [field.name for field in fields(Control)]
    unknown = sorted(str(key) for key in values if key not in names)
    if unknown:
        raise ValueError(f"control.{unknown[0]}: unknown key; expected {', '.join(names)}")
    return Control(**{str(key): value for key, value in values.items()})


def norms_of(chunks: Iterable[tuple[Mapping[str, Tensor], range]]) -> dict[str, Tensor]:
    """Compute the norm of every sample at each site, (sequences, positions), from activations chunk by chunk."""
    parts: dict[str, list[Tensor]] = {}
    for acts, _ in chunks:
        for site, samples in acts.items():
            samples = samples if samples.dtype == torch.float64 else samples.float()
            parts.setdefault(site, []).append(torch.linalg.vector_norm(samples, dim=-1).cpu())
    return {site: torch.cat(norms) for site, norms in parts.items()}


def without_top_norms(
    norms: Mapping[Any, Float[Tensor, "sequences positions"]],
    drop: int,
    real: Bool[Tensor, "sequences positions"] | None = None,
) -> Int[Tensor, "s kept"]:
    """Return the positions of each sequence that remain, ascending, without those of the largest norms.

    Args:
        norms: norms of the samples at each site of each model, which the median of the site makes comparable. The rank
            of a position is that of its largest relative norm at any site.
        drop: number to drop per sequence. Among equal norms, the earlier position is dropped.
        real: which positions can be dropped, more than ``drop`` per sequence; None for all of them.

    Raises:
        ValueError: sites of different numbers of positions.
    """
    shapes = {key: tuple(site_norms.shape) for key, site_norms in norms.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"control.drop_top_norm drops the same positions everywhere, and the sites have different ones: "
            f"{shapes}; choose sites of equal positions"
        )
    largest = torch.stack([_relative(site_norms.double().cpu(), real) for site_norms in norms.values()]).amax(0)
    order = largest.argsort(dim=1, descending=True, stable=True)
    return order[:, drop:].sort(1).values


def _relative(norms: Tensor, real: Tensor | None) -> Tensor:
    """Return norms in units of their median, or of the smallest positive one if that is zero; NaN becomes infinite."""
    real_norms = norms if real is None else norms[real]
    median = real_norms.nanmedian()
    if not median > 0:
        positive = real_norms[real_norms > 0]
        median = positive.min() if len(positive) else torch.ones(())
    relative = (norms / median).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return relative if real is None else relative.masked_fill(~real, -1)


def normalized(samples: Float[Tensor, "*batch d"], normalize: Normalize) -> Float[Tensor, "*batch d"]:
    """Normalize samples, in float32 or float64; one without a scale (zero, or constant for a LayerNorm) becomes 0.

    >>> normalized(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "unit_norm")
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    if normalize == "none":
        return samples
    samples = samples if samples.dtype == torch.float64 else samples.float()
    if normalize == "unit_norm":
        size = torch.linalg.vector_norm(samples, dim=-1, keepdim=True)
        return torch.where(size == 0, 0, samples / size)
    mean = samples.mean(-1, keepdim=True)
    samples = samples - mean
    size = samples.square().mean(-1, keepdim=True).sqrt()
    # What rounding leaves of a constant sample is not a direction.
    return torch.where(size <= 2 * torch.finfo(samples.dtype).eps * mean.abs(), 0, samples / size)
