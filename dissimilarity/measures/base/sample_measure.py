"""Measures that compare rows with each other, on a bounded, seeded subsample of them."""

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import estimate_weighted
from dissimilarity.measures.base.checks import check_count, check_rows, check_widths
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.sampling import keep_sampled, priorities


class SampleMeasure(Measure):
    """A measure of pairs of rows.

    Args:
        samples: most rows that are compared.
        seed: which rows those are; the choice depends on it and on a row's place in its process's stream alone.
    """

    full_state_update: ClassVar[bool | None] = True

    def __init__(self, samples: int = 1024, seed: int = 0) -> None:
        super().__init__()
        self.samples, self.seed = samples, seed
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("x", "y", "priority"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @abstractmethod
    def between(self, x: Any, y: Any, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """The value of two prepared sides.

        Args:
            x, y: from ``prepare``.
            weight: float64 weights of the samples, ones, in which the value is then differentiable (in what follows
                from the samples one by one: neighbor lists and ranks are taken for given); its derivative gives the
                standard error. None: the plain value, in whatever way is fastest.
        """

    @abstractmethod
    def rearrange(self, x: Any, order: Int[Tensor, " n"]) -> Any:
        """The prepared side of rows x[order], for the null."""

    def estimate(self, x: Any, y: Any, group: Int[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The value of two prepared sides and its standard error by groups of samples.

        By default from the derivative in the samples' weights. A measure overrides it whose value hangs on the samples
        in a way that has no derivative.
        """
        return estimate_weighted(lambda weight: self.between(x, y, weight), group)

    def update(self, x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> None:
        """Adds the samples of one batch and keeps the chosen ones."""
        check_rows(x, y)
        if self.x:
            check_widths((cast(list[Tensor], self.x)[0].shape[1], cast(list[Tensor], self.y)[0].shape[1]), x, y)
        priority = priorities(int(self.seen), len(x), self.seed).to(x.device)
        self.seen = self.seen + len(x)
        kept = keep_sampled(self._rows(x, y, priority), self.samples)
        self.x, self.y, self.priority = ([part] for part in kept)

    def _rows(self, *more: Tensor) -> list[Tensor]:
        """The kept rows of both sides and their priorities, with a batch's appended."""
        states = cast(list[list[Tensor] | Tensor], [self.x, self.y, self.priority])
        kept = [[state] if isinstance(state, Tensor) else list(state) for state in states]
        return [torch.cat([*old, *new]) for old, new in zip(kept, [[part] for part in more] or [[]] * 3, strict=True)]

    def compute(self) -> Float[Tensor, ""]:
        """The value over the sampled rows of all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        x, y, _ = keep_sampled(self._rows(), self.samples)
        return self.of(x, y)


def weighted_mean(values: Float[Tensor, " n"], weight: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Mean of one value a sample."""
    return values.mean() if weight is None else weight @ values / weight.sum()
