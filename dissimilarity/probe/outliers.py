"""Outlier control: which positions count, and whether rows are brought to one scale, before any measure sees them.

A few tokens of massive norm that two models share (the first one, delimiters) make them look alike whatever the rest
does: two of a thousand push debiased CKA of independent features to 0.97. What follows is the same for both models and
at all sites: the same positions, the same treatment of rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Normalize = Literal["none", "layer_norm", "unit_norm"]


@dataclass(frozen=True)
class Control:
    """Which positions of each sequence count, in this order, and what is done to their rows.

    Attributes:
        skip_first: so many positions at the beginning of each sequence do not count.
        every: of the rest every so-manieth counts.
        drop_top_norm: of these, so many of each sequence are left out: those whose norm is largest, in units of the
            median norm of their site, at any chosen site of either model.
        normalize: ``none``; ``layer_norm``: each row less its mean, over its standard deviation, both over its
            dimensions; ``unit_norm``: each row over its length. Last of all, after any pooling.

    Raises:
        ValueError: a number out of range, an unknown way to normalize.
    """

    skip_first: int = 0
    drop_top_norm: int = 0
    every: int = 1
    normalize: Normalize = "none"

    def __post_init__(self) -> None:
        for key, least in (("skip_first", 0), ("drop_top_norm", 0), ("every", 1)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"control.{key}={value}: expected a whole number, {least} or more")
        if self.normalize not in get_args(Normalize):
            choices = ", ".join(get_args(Normalize))
            raise ValueError(f"control.normalize={self.normalize}: expected one of {choices}")

    @property
    def chooses(self) -> bool:
        """Whether not all positions count."""
        return (self.skip_first, self.drop_top_norm, self.every) != (0, 0, 1)

    def positions(self, length: int) -> Int[Tensor, " positions"]:
        """The positions of sequences of this length that count before any is dropped for its norm.

        Raises:
            ValueError: none would be left.
        """
        found = torch.arange(self.skip_first, length, self.every)
        if len(found) <= self.drop_top_norm:
            raise ValueError(
                f"control.skip_first={self.skip_first}, control.every={self.every} and "
                f"control.drop_top_norm={self.drop_top_norm} leave none of {length} positions of a sequence; lower "
                "them, or raise probe.length"
            )
        return found


NO_CONTROL = Control()
"""Every position counts, and rows are compared as they are."""


def control_of(given: Control | Mapping[str, Any]) -> Control:
    """A control as it is, or of its values by name.

    Raises:
        ValueError: a value that there is not.
    """
    if isinstance(given, Control):
        return given
    known = [field.name for field in fields(Control)]
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        raise ValueError(f"control.{unknown[0]}: nothing reads this key; there are {', '.join(known)}")
    return Control(**{str(key): value for key, value in given.items()})


def norms_of(chunks: Iterable[tuple[Mapping[str, Tensor], range]]) -> dict[str, Tensor]:
    """The norm of every row at each site, (sequences, positions), from activations chunk by chunk."""
    parts: dict[str, list[Tensor]] = {}
    for acts, _ in chunks:
        for site, rows in acts.items():
            rows = rows if rows.dtype == torch.float64 else rows.float()
            parts.setdefault(site, []).append(torch.linalg.vector_norm(rows, dim=-1).cpu())
    return {site: torch.cat(of) for site, of in parts.items()}


def without_top_norms(
    norms: Mapping[Any, Float[Tensor, "sequences positions"]],
    drop: int,
    real: Bool[Tensor, "sequences positions"] | None = None,
) -> Int[Tensor, "s kept"]:
    """Which positions of each sequence remain, ascending, without those that stand out most.

    Args:
        norms: of the rows at each site of each model. One site's norms are made comparable with another's by their
            median; a position stands out as far as it does where it does so most.
        drop: how many of each sequence go. Of equals the earlier one goes.
        real: which positions can go at all, more than ``drop`` of each sequence; None for every one.

    Raises:
        ValueError: sites of different numbers of positions.
    """
    shapes = {key: tuple(of.shape) for key, of in norms.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"control.drop_top_norm leaves out the same positions everywhere, and the sites have different ones: "
            f"{shapes}; choose sites of equal positions"
        )
    standing_out = torch.stack([_relative(of.double().cpu(), real) for of in norms.values()]).amax(0)
    order = standing_out.argsort(dim=1, descending=True, stable=True)
    return order[:, drop:].sort(1).values


def _relative(norms: Tensor, real: Tensor | None) -> Tensor:
    """Norms in units of their median; where most rows are zero, of the smallest that is not. What is NaN stands out."""
    known = norms if real is None else norms[real]
    median = known.nanmedian()
    if not median > 0:
        positive = known[known > 0]
        median = positive.min() if len(positive) else torch.ones(())
    relative = (norms / median).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return relative if real is None else relative.masked_fill(~real, -1)


def normalized(rows: Float[Tensor, "*batch d"], how: Normalize) -> Float[Tensor, "*batch d"]:
    """Rows on one scale, float32 or better. A row that has no scale, all zero (or constant, to a LayerNorm), is 0."""
    if how == "none":
        return rows
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if how == "unit_norm":
        size = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return torch.where(size == 0, 0, rows / size)
    mean = rows.mean(-1, keepdim=True)
    rows = rows - mean
    size = rows.square().mean(-1, keepdim=True).sqrt()
    # What rounding leaves of a constant row is not a direction.
    return torch.where(size <= 2 * torch.finfo(rows.dtype).eps * mean.abs(), 0, rows / size)
