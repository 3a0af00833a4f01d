"""Measures that compare samples with each other, on a bounded, seeded subsample of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dissimilarity.inference.jackknife import estimate_weighted
from dissimilarity.measures.base.checks import ArrayLike, as_tensors, check_count, check_samples, check_widths
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.arguments import whole
from dissimilarity.probe.sampling import keep_sampled, priorities


class SampleMeasure(Measure):
    """A measure of pairs of samples.

    Args:
        max_samples: maximum number of samples to compare.
        seed: selects the samples. The choice depends only on the seed and on a sample's position in its process's
            stream.
    """

    full_state_update: ClassVar[bool | None] = True

    def __init__(self, max_samples: int = 1024, seed: int = 0) -> None:
        super().__init__()
        self.max_samples, self.seed = whole("max_samples", max_samples, 2), whole("seed", seed, 0)
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("x", "y", "priority"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @abstractmethod
    def between(self, x: Any, y: Any, weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return the value of two prepared sides.

        Args:
            x: the first side, from ``prepare``.
            y: the second side.
            weight: float64 weights of the samples, all 1. The value is then differentiable in them, with neighbor
                lists and ranks held fixed, and the derivative gives the standard error. None: the plain value,
                computed in the fastest way.
        """

    def prepare_sequences(self, x: Float[Tensor, "n p"], sequence: Int[Tensor, " n"]) -> Any:
        """Return one prepared side of samples from several sequences, which make a difference if ``by_sequence``."""
        return self.prepare(x)

    @abstractmethod
    def rearrange(self, x: Any, order: Int[Tensor, " n"]) -> Any:
        """Return the prepared side of the samples x[order], for the null."""

    def rearranged_values(
        self, x: Any, partners: Sequence[Any], orders: Int[Tensor, "nulls n"]
    ) -> Float[Tensor, "nulls partners"]:
        """Return the value in each of several rearrangements of the first side with each partner, for the null."""
        rearranged = (self.rearrange(x, order) for order in orders)
        return torch.stack([torch.stack([self.between(side, y) for y in partners]) for side in rearranged])

    def estimate(self, x: Any, y: Any, unit: Int[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, " units"]]:
        """Return the value of two prepared sides and the influences of jackknife units on it.

        By default these follow from the derivative in the samples' weights. A measure overrides this if its value
        depends on the samples in a way that has no derivative.

        Args:
            x: the first side, from ``prepare``.
            y: the second side.
            unit: the jackknife unit of each sample, integers from 0.
        """
        return estimate_weighted(lambda weight: self.between(x, y, weight), unit)

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add the samples of one batch and keep those that the seed selects."""
        x, y = as_tensors(x, y)
        check_samples(x, y)
        if self.x:
            check_widths((cast(list[Tensor], self.x)[0].shape[1], cast(list[Tensor], self.y)[0].shape[1]), x, y)
        priority = priorities(int(self.seen), len(x), self.seed).to(x.device)
        self.seen = self.seen + len(x)
        sampled = keep_sampled(self._with_batch(x, y, priority), self.max_samples)
        self.x, self.y, self.priority = ([part] for part in sampled)

    def _with_batch(self, *batch: Tensor) -> list[Tensor]:
        """Return the sampled x, y and priorities, with those of a batch appended."""
        states = cast(list[list[Tensor] | Tensor], [self.x, self.y, self.priority])
        stored = [[state] if isinstance(state, Tensor) else list(state) for state in states]
        added = [[part] for part in batch] or [[]] * 3
        return [torch.cat([*old, *new]) for old, new in zip(stored, added, strict=True)]

    def compute(self) -> Float[Tensor, ""]:
        """Return the value over the sampled part of all samples seen, on all processes."""
        check_count(int(self.seen), self.minimum_samples)
        x, y, _ = keep_sampled(self._with_batch(), self.max_samples)
        return self.value(x, y)


def weighted_mean(values: Float[Tensor, " n"], weight: Float[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Return the mean of one value per sample."""
    return values.mean() if weight is None else weight @ values / weight.sum()
