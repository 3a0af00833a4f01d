"""Examples drawn from a grammar: kinds are balanced, no example occurs twice, and no sentence is in two splits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, TypeVar

from data.examples import Example

# Consecutive draws without a new example after which the grammar counts as exhausted.
PATIENCE = 2000

Step = TypeVar("Step")


@dataclass
class DrawnExamples(ABC):
    """Examples that a grammar draws for `train`, for `val`, and for splits out of distribution.

    Args:
        train: Number of training examples.
        val: Number of validation examples.
        ood: Number of examples per split out of distribution.
        counterexamples: Share, 0 to 1, of counterexamples in the training part; nothing else depends on it.
        seed: Seed of the training examples.
        held_out_seed: Seed of all other splits, which do not depend on `seed` and `counterexamples`.

    Attributes:
        minimum: Smallest number of examples per split, and what they are called.

    Raises:
        ValueError: If a number is out of range; from splits(), if the grammar has too few examples.
    """

    train: int
    val: int = 1200
    ood: int = 1000
    counterexamples: float = 0.0
    seed: int = 0
    held_out_seed: int = 0
    minimum: ClassVar[tuple[int, str]]

    def __post_init__(self) -> None:
        minimum, unit = self.minimum
        for key in ("train", "val", "ood"):
            if getattr(self, key) < minimum:
                raise ValueError(f"expected data.source.{key} >= {minimum} {unit}, found {getattr(self, key)}")
        if not 0 <= self.counterexamples <= 1:
            raise ValueError(f"expected 0 <= data.source.counterexamples <= 1 (a share), found {self.counterexamples}")

    def splits(self) -> dict[str, list[Example]]:
        """Return `train`, `val` and the splits out of distribution, in about a second per 15,000 examples."""
        used: set[str] = set()
        held_out = {
            name: distinct(name, steps, self.held_out_seed, used, self.make)
            for name, steps in self.held_out_steps().items()
        }
        steps = self.steps("val", self.val, 0.0, self.held_out_seed)
        val = distinct("val", steps, self.held_out_seed, used, self.make)
        steps = self.steps("train", self.train, self.counterexamples, self.seed)
        return {"train": distinct("train", steps, self.seed, used, self.make), "val": val, **held_out}

    @abstractmethod
    def held_out_steps(self) -> dict[str, list[Any]]:
        """Return the steps of each split out of distribution."""

    @abstractmethod
    def steps(self, split: str, count: int, counterexamples: float, seed: int) -> list[Any]:
        """Return `count` arguments of `make` for `train` or `val`, a share of them for counterexamples."""

    @abstractmethod
    def make(self, step: Any, chance: Random) -> Example:
        """Draw an example."""


def rounds(kinds: Sequence[Step], count: int, chance: Random) -> list[Step]:
    """Return `count` items that cycle through `kinds`, each round in its own random order."""
    orders = [chance.sample(kinds, k=len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for order in orders for kind in order][:count]


def share_of(count: int, share: float) -> int:
    """Return the share `share` of `count`, rounded down.

    Examples:
        >>> share_of(100, 0.29)
        29
    """
    # Without the small number, 100 * 0.29 would become 28.
    return int(count * share + 1e-9)


def distinct(
    split: str, steps: Sequence[Step], seed: int, used: set[str], make: Callable[[Step, Random], Example]
) -> list[Example]:
    """Draw one example per step, none twice and none with a sentence in `used`, and add their sentences to `used`.

    Example number i depends on (split, seed, i) and its step, and on other steps only if it would repeat one of them.

    Args:
        split: Name of the split.
        steps: Arguments of `make`.
        seed: Seed of the draws.
        used: Sentences of other splits.
        make: Draws an example; called until the example is new.

    Raises:
        ValueError: If many draws give no new example.
    """
    examples: list[Example] = []
    seen: set[tuple[str, str | None]] = set()
    for number, step in enumerate(steps):
        chance = Random(f"{split} {seed} {number}")
        for _ in range(PATIENCE):
            example = make(step, chance)
            if (example.text, example.pair) not in seen and example.text not in used and example.pair not in used:
                break
        else:
            raise ValueError(
                f"expected {len(steps)} examples in the split {split!r}, found {number}: the grammar has no more "
                "new examples of the next kind with sentences that no other split has: lower data.source.train, "
                "data.source.val or data.source.ood"
            )
        seen.add((example.text, example.pair))
        examples.append(example)
    used.update(text for pair in seen for text in pair if text is not None)
    return examples
