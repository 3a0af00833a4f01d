"""Examples drawn from a grammar: kinds are balanced, no example occurs twice, and no sentence is in two splits."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

from data.examples import Example

# Consecutive draws without a new example after which the grammar counts as exhausted.
PATIENCE = 2000

Step = TypeVar("Step")


def check_amounts(counts: Mapping[str, int], least: int, unit: str, counterexamples: float) -> None:
    """Raise ValueError for a split of fewer than `least` examples, or a share of counterexamples outside of 0 to 1.

    Args:
        counts: Number of examples by key of data.source.
        least: Smallest number per split.
        unit: Name of the examples, in the plural.
        counterexamples: Share of counterexamples, 0 to 1.
    """
    for key, value in counts.items():
        if value < least:
            raise ValueError(f"expected data.source.{key} >= {least} {unit}, found {value}")
    if not 0 <= counterexamples <= 1:
        raise ValueError(f"expected 0 <= data.source.counterexamples <= 1 (a share), found {counterexamples}")


def rounds(kinds: Sequence[Step], count: int, chance: Random) -> list[Step]:
    """Return `count` items that cycle through `kinds`, each round in its own random order."""
    orders = [chance.sample(kinds, k=len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for order in orders for kind in order][:count]


def share_of(count: int, share: float) -> int:
    """Return the share `share` of `count`, rounded down.

    Example:
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
