"""Pairs of sentences that heuristics and structure judge alike, and others that they judge differently."""

from collections.abc import Sequence
from random import Random

from data.examples import Example
from data.examples.grammar import ENTAILMENT, HEURISTICS, NON_ENTAILMENT, SUBCASES, Subcase, draw

# Draws in a row that give nothing new, after which the grammar counts as exhausted.
PATIENCE = 2000


class Heuristics:
    """Entailment in English of a small grammar (data/examples/grammar.py), for studies of generalisation.

    `train` and `val` are ambiguous: a hypothesis that follows has all its words in the premise, one that does not has
    some that are not, so that word overlap and structure give the same answers. Six more splits are out of
    distribution, HEURISTIC.LABEL such as `lexical_overlap.non_entailment`: in all of them all words of the hypothesis
    are in the premise, in the order that the heuristic's name says. In the three `.non_entailment` ones overlap is
    always wrong. Labels and the thirty kinds of premise (recorded as `subcase`, HEURISTIC.LABEL.KIND) are balanced; no
    pair is there twice, and no sentence in two splits.

    Args:
        train: number of training pairs.
        val: number of validation pairs.
        ood: number of pairs of each split out of distribution.
        counterexamples: share, 0 to 1, of the training pairs without entailment in which all words of the hypothesis
            are in the premise, so that overlap is wrong there. Nothing else changes with it.
        seed: draws the training pairs.
        held_out_seed: draws all other splits, which are the same for every `seed` and every `counterexamples`.

    Raises:
        ValueError: a number out of range; from splits(), more asked for than the grammar makes.
    """

    def __init__(
        self,
        train: int = 12000,
        val: int = 1200,
        ood: int = 1000,
        counterexamples: float = 0.0,
        seed: int = 0,
        held_out_seed: int = 0,
    ) -> None:
        for key, value in {"train": train, "val": val, "ood": ood}.items():
            if value < 2:
                raise ValueError(f"expected data.source.{key} >= 2 pairs, found {value}")
        if not 0 <= counterexamples <= 1:
            raise ValueError(f"expected 0 <= data.source.counterexamples <= 1 (a share), found {counterexamples}")
        self.train = train
        self.val = val
        self.ood = ood
        self.counterexamples = counterexamples
        self.seed = seed
        self.held_out_seed = held_out_seed

    def splits(self) -> dict[str, list[Example]]:
        """Return `train`, `val` and the six splits out of distribution; takes a second for 20,000 pairs."""
        used: set[str] = set()
        held_out = {}
        for heuristic in HEURISTICS:
            for label in (ENTAILMENT, NON_ENTAILMENT):
                name = f"{heuristic}.{label.replace('-', '_')}"
                kinds = [kind for kind in SUBCASES if (kind.heuristic, kind.label) == (heuristic, label)]
                field = "entailed" if label == ENTAILMENT else "trap"
                steps = [(kind, field) for kind in _rounds(kinds, self.ood, Random(f"{name} {self.held_out_seed}"))]
                held_out[name] = _distinct(name, steps, self.held_out_seed, used)
        val = _distinct("val", _ambiguous("val", self.val, 0.0, self.held_out_seed), self.held_out_seed, used)
        steps = _ambiguous("train", self.train, self.counterexamples, self.seed)
        return {"train": _distinct("train", steps, self.seed, used), "val": val, **held_out}


# A kind of premise, and which hypothesis goes with it: the name of a field of Drawn.
_Step = tuple[Subcase, str]


def _rounds(kinds: Sequence[Subcase], count: int, chance: Random) -> list[Subcase]:
    """Return `count` kinds, each as often as the others (within one), every round in an order of its own."""
    rounds = [chance.sample(kinds, k=len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for order in rounds for kind in order][:count]


def _ambiguous(split: str, count: int, counterexamples: float, seed: int) -> list[_Step]:
    """Return as many steps with entailment as without; of those without, the share `counterexamples` are traps."""
    chance = Random(f"{split} {seed}")
    steps: list[_Step] = []
    for number, kind in enumerate(_rounds(SUBCASES, -(-count // 2), chance)):
        # Spread evenly; the small number keeps 100 * 0.29 from being 28.
        is_trap = int((number + 1) * counterexamples + 1e-9) > int(number * counterexamples + 1e-9)
        steps += [(kind, "entailed"), (kind, "trap" if is_trap else "foreign")]
    # So that pairs at even distances are no special ones.
    return chance.sample(steps[:count], k=count)


def _distinct(split: str, steps: Sequence[_Step], seed: int, used: set[str]) -> list[Example]:
    """Draw an example for each step, none twice and none with a sentence in `used`, to which theirs are added."""
    examples: list[Example] = []
    pairs: set[tuple[str, str]] = set()
    for number, (kind, field) in enumerate(steps):
        chance = Random(f"{split} {seed} {number}")
        for _ in range(PATIENCE):
            drawn = draw(kind, chance)
            pair = (drawn.premise, getattr(drawn, field))
            if pair not in pairs and used.isdisjoint(pair):
                break
        else:
            raise ValueError(
                f"expected {len(steps)} pairs in the split {split!r}, found {number}: the grammar makes no more of the "
                f"kind {kind.name!r} that are new and whose sentences are in no other split: lower data.source.train, "
                "data.source.val or data.source.ood"
            )
        pairs.add(pair)
        label = ENTAILMENT if field == "entailed" else NON_ENTAILMENT
        subcase = f"{kind.heuristic}.{kind.label.replace('-', '_')}.{kind.name}"
        examples.append(Example(*pair, label, subcase))
    used.update(*pairs)
    return examples
