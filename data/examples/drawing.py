"""Examples drawn from a grammar: every kind as often as the others, none twice, no sentence in two splits."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

from data.examples import Example

# Draws in a row that give nothing new, after which the grammar counts as exhausted.
PATIENCE = 2000

Step = TypeVar("Step")


def check_amounts(counts: Mapping[str, int], least: int, unit: str, counterexamples: float) -> None:
    """Raise ValueError for a split of fewer than `least` examples, or counterexamples that are no share of them.

    Args:
        counts: number of examples asked for, by the key of data.source that says it.
        least: fewest of a split.
        unit: what they are called, in the plural.
        counterexamples: the share, 0 to 1.
    """
    for key, value in counts.items():
        if value < least:
            raise ValueError(f"expected data.source.{key} >= {least} {unit}, found {value}")
    if not 0 <= counterexamples <= 1:
        raise ValueError(f"expected 0 <= data.source.counterexamples <= 1 (a share), found {counterexamples}")


def rounds(kinds: Sequence[Step], count: int, chance: Random) -> list[Step]:
    """Return `count` of `kinds`, each as often as the others (within one), every round in an order of its own."""
    orders = [chance.sample(kinds, k=len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for order in orders for kind in order][:count]


def share_of(count: int, share: float) -> int:
    """Return how many of `count` the share `share` is, rounded down."""
    # The small number keeps 100 * 0.29 from being 28.
    return int(count * share + 1e-9)


def distinct(
    split: str, steps: Sequence[Step], seed: int, used: set[str], make: Callable[[Step, Random], Example]
) -> list[Example]:
    """Draw an example for each step, none twice and none with a sentence in `used`, to which theirs are added.

    What example number i is hangs on (split, seed, i) and its step, not on the other steps, unless it is one of them.

    Args:
        split: the split's name.
        steps: what `make` is to make.
        seed: of the draws.
        used: sentences of other splits.
        make: draws an example; called again until it is new.

    Raises:
        ValueError: nothing new came of many draws.
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
                f"expected {len(steps)} examples in the split {split!r}, found {number}: the grammar makes no more of "
                "the next one's kind that are new and whose sentences are in no other split: lower data.source.train, "
                "data.source.val or data.source.ood"
            )
        seen.add((example.text, example.pair))
        examples.append(example)
    used.update(text for pair in seen for text in pair if text is not None)
    return examples
