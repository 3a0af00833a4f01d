"""Models by size, and the pairs of sizes that are compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

from studies.common.jackknife import Interval

SizePair = tuple[str, str]
KINDS = ("width", "depth", "both")
"""How two sizes differ; `seed` stands for the seeds of one size."""


@dataclass(frozen=True)
class SizedModel:
    """One model with its size and loss.

    Attributes:
        label: its name in the table.
        family: the same for models that differ only in size.
        width: width of the stream.
        depth: number of sites.
        data_order: seed of the order of its text; None if unknown.
        loss, stderr: on the held-out text, nats per token.
    """

    label: str
    family: str
    width: int
    depth: int
    data_order: int | None
    loss: float
    stderr: float

    @property
    def parameters(self) -> int:
        """Return the approximate parameter count of the blocks, 12 depth width^2."""
        return 12 * self.depth * self.width**2


@dataclass(frozen=True)
class Between:
    """A comparison of two sizes, or of the seeds of one.

    Attributes:
        sizes: their names, the smaller size first.
        kind: `seed`, `width`, `depth` or `both`: how they differ.
        doublings: log2 of the ratio of the blocks' parameters.
        values: (control, measure, scale, region) -> mean over pairs of models; region `all` is all matched layers.
        excess: the same key -> share of the similarity of seeds that the two sizes lack (`excess_of`).
    """

    sizes: SizePair
    kind: str
    doublings: float
    values: dict[tuple[str, ...], Interval] = field(default_factory=dict)
    excess: dict[tuple[str, ...], Interval] = field(default_factory=dict)


def by_size(models: Sequence[SizedModel]) -> dict[str, list[SizedModel]]:
    """Group models by size, smaller sizes first; name sizes by width and depth, and by family if there are several.

    Examples:
        >>> model = SizedModel("a", "gelu", 64, 2, 0, 5.0, 0.1)
        >>> list(by_size([model]))
        ['w64 d2']
    """
    several = len({model.family for model in models}) > 1
    sizes: dict[str, list[SizedModel]] = {}
    for model in sorted(models, key=lambda model: (model.parameters, model.depth)):
        name = f"w{model.width} d{model.depth}"
        sizes.setdefault(f"{model.family} {name}" if several else name, []).append(model)
    return sizes


def compared_sizes(sizes: Mapping[str, Sequence[SizedModel]]) -> dict[SizePair, Between]:
    """Return every two sizes, and each with itself for its seeds."""
    return {pair: _between(sizes, pair) for pair in combinations_with_replacement(sizes, 2)}


def _between(sizes: Mapping[str, Sequence[SizedModel]], pair: SizePair) -> Between:
    (a, *_), (b, *_) = (sizes[name] for name in pair)
    if pair[0] == pair[1]:
        return Between(pair, "seed", 0.0)
    kind = "width" if a.depth == b.depth else "depth" if a.width == b.width else "both"
    return Between(pair, kind, abs(math.log2(b.parameters / a.parameters)))


def same_data_order(a: SizedModel, b: SizedModel) -> bool:
    """Return whether two models are known to have read their text in the same order."""
    return a.data_order is not None and a.data_order == b.data_order


def needs_same_data_order(sizes: Mapping[str, Sequence[SizedModel]]) -> bool:
    """Return whether two sizes have only pairs of models with the same data order, so that these have to count."""
    return any(
        all(same_data_order(a, b) for a in sizes[first] for b in sizes[second])
        for first, second in combinations_with_replacement(sizes, 2)
        if first != second
    )
