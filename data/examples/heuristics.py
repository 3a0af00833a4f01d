"""Pairs of sentences that heuristics and structure judge alike, and others that they judge differently."""

from random import Random

from data.examples import Example, split_name
from data.examples.drawing import check_amounts, distinct, rounds, share_of
from data.examples.grammar import ENTAILMENT, HEURISTICS, NON_ENTAILMENT, SUBCASES, Subcase, draw


class Heuristics:
    """Entailment in English of a small grammar (data/examples/grammar.py), for studies of generalization.

    `train` and `val` are ambiguous: a hypothesis that follows has all its words in the premise, one that does not has
    other nouns and verbs, so that word overlap and structure give the same answers. Six more splits are out of
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
        """Return `train`, `val` and the six splits out of distribution; takes a second for 15,000 pairs."""
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


# A kind of premise, and which hypothesis goes with it: the name of a field of Drawn.
_Step = tuple[Subcase, str]


def _ambiguous(split: str, count: int, counterexamples: float, seed: int) -> list[_Step]:
    """Return as many steps with entailment as without; of those without, the share `counterexamples` are traps."""
    chance = Random(f"{split} {seed}")
    half = -(-count // 2)
    traps = share_of(half, counterexamples)
    steps: list[_Step] = []
    # The first of the rounds are as even over the kinds as all of them.
    for place, kind in enumerate(rounds(SUBCASES, half, chance)):
        steps += [(kind, "entailed"), (kind, "trap" if place < traps else "foreign")]
    # So that pairs at even distances are no special ones.
    return chance.sample(steps[:count], k=count)


def _make(step: _Step, chance: Random) -> Example:
    kind, field = step
    drawn = draw(kind, chance)
    label = ENTAILMENT if field == "entailed" else NON_ENTAILMENT
    subcase = split_name(kind.heuristic, kind.label, kind.name)
    return Example(drawn.premise, getattr(drawn, field), label, subcase)
