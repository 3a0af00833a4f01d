"""Pairs of sentences on which heuristics and structure agree, and pairs on which they differ."""

from random import Random

from data.examples import Example, split_name
from data.examples.drawing import check_amounts, distinct, rounds, share_of
from data.examples.grammar import ENTAILMENT, HEURISTICS, NON_ENTAILMENT, SUBCASES, Subcase, draw


class Heuristics:
    """Entailment in a small English grammar (data/examples/grammar), for studies of generalization.

    `train` and `val` are ambiguous: an entailed hypothesis has all its words in the premise, any other hypothesis has
    different nouns and verbs, so word overlap and structure give the same answers. Six more splits are out of
    distribution, named HEURISTIC.LABEL, such as `lexical_overlap.non_entailment`. In all of them the premise has all
    words of the hypothesis, in the order that the heuristic describes; in the three `.non_entailment` ones overlap is
    always wrong. Labels and the thirty kinds of premise (recorded as `subcase`, HEURISTIC.LABEL.KIND) are balanced. No
    pair occurs twice, and no sentence is in two splits.

    Args:
        train: Number of training pairs.
        val: Number of validation pairs.
        ood: Number of pairs per split out of distribution.
        counterexamples: Share, 0 to 1, of the training pairs without entailment whose premise has all words of the
            hypothesis, so that overlap is wrong. Nothing else depends on it.
        seed: Seed of the training pairs.
        held_out_seed: Seed of all other splits, which do not depend on `seed` and `counterexamples`.

    Raises:
        ValueError: If a number is out of range; from splits(), if the grammar has too few examples.
    """

    def __init__(
        self,
        train: int = 40000,
        val: int = 1200,
        ood: int = 1000,
        counterexamples: float = 0.0,
        seed: int = 0,
        held_out_seed: int = 0,
    ) -> None:
        check_amounts({"train": train, "val": val, "ood": ood}, 2, "pairs", counterexamples)
        self.train = train
        self.val = val
        self.ood = ood
        self.counterexamples = counterexamples
        self.seed = seed
        self.held_out_seed = held_out_seed

    def splits(self) -> dict[str, list[Example]]:
        """Return `train`, `val` and the six splits out of distribution, in about a second per 15,000 pairs."""
        used: set[str] = set()
        held_out = {}
        for heuristic in HEURISTICS:
            for label in (ENTAILMENT, NON_ENTAILMENT):
                name = split_name(heuristic, label)
                kinds = [kind for kind in SUBCASES if (kind.heuristic, kind.label) == (heuristic, label)]
                field = "entailed" if label == ENTAILMENT else "trap"
                order = rounds(kinds, self.ood, Random(f"{name} {self.held_out_seed}"))
                held_out[name] = distinct(name, [(kind, field) for kind in order], self.held_out_seed, used, _make)
        steps = _ambiguous("val", self.val, 0.0, self.held_out_seed)
        val = distinct("val", steps, self.held_out_seed, used, _make)
        steps = _ambiguous("train", self.train, self.counterexamples, self.seed)
        return {"train": distinct("train", steps, self.seed, used, _make), "val": val, **held_out}


# A kind of premise, and the field of Drawn that holds its hypothesis.
_Step = tuple[Subcase, str]


def _ambiguous(split: str, count: int, counterexamples: float, seed: int) -> list[_Step]:
    """Return equally many steps with and without entailment; the share `counterexamples` of the latter are traps."""
    chance = Random(f"{split} {seed}")
    half = -(-count // 2)
    traps = share_of(half, counterexamples)
    steps: list[_Step] = []
    # The first rounds are as balanced over the kinds as all of them.
    for place, kind in enumerate(rounds(SUBCASES, half, chance)):
        steps += [(kind, "entailed"), (kind, "trap" if place < traps else "foreign")]
    # In random order, evenly spaced pairs are representative.
    return chance.sample(steps[:count], k=count)


def _make(step: _Step, chance: Random) -> Example:
    kind, field = step
    drawn = draw(kind, chance)
    label = ENTAILMENT if field == "entailed" else NON_ENTAILMENT
    subcase = split_name(kind.heuristic, kind.label, kind.name)
    return Example(drawn.premise, getattr(drawn, field), label, subcase)
