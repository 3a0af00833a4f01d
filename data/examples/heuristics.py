"""Pairs of sentences on which heuristics and structure agree, and pairs on which they differ."""

from dataclasses import dataclass
from random import Random

from data.examples import Example, split_name
from data.examples.drawing import DrawnExamples, rounds, share_of
from data.examples.grammar import ENTAILMENT, HEURISTICS, NON_ENTAILMENT, SUBCASES, Subcase, draw


@dataclass
class Heuristics(DrawnExamples):
    """Entailment in a small English grammar (data/examples/grammar), for studies of generalization.

    `train` and `val` are ambiguous: an entailed hypothesis has all its words in the premise, any other hypothesis has
    different nouns and verbs, so word overlap and structure give the same answers. Six more splits are out of
    distribution, named HEURISTIC.LABEL, such as `lexical_overlap.non_entailment`. In all of them the premise has all
    words of the hypothesis, in the order that the heuristic describes; in the three `.non_entailment` ones overlap is
    always wrong. Counterexamples are training pairs without entailment of that kind; their share is one of the pairs
    without entailment. Labels and the thirty kinds of premise (recorded as `subcase`, HEURISTIC.LABEL.KIND) are
    balanced. No pair occurs twice, and no sentence is in two splits.
    """

    train: int = 40000
    minimum = (2, "pairs")

    def held_out_steps(self) -> dict[str, list[tuple[Subcase, str]]]:
        """Return the steps of the six splits out of distribution."""
        splits = {}
        for heuristic in HEURISTICS:
            for label in (ENTAILMENT, NON_ENTAILMENT):
                name = split_name(heuristic, label)
                kinds = [kind for kind in SUBCASES if (kind.heuristic, kind.label) == (heuristic, label)]
                field = "entailed" if label == ENTAILMENT else "trap"
                order = rounds(kinds, self.ood, Random(f"{name} {self.held_out_seed}"))
                splits[name] = [(kind, field) for kind in order]
        return splits

    def steps(self, split: str, count: int, counterexamples: float, seed: int) -> list[tuple[Subcase, str]]:
        """Return as many steps with entailment as without; the share `counterexamples` of the latter are traps."""
        chance = Random(f"{split} {seed}")
        half = -(-count // 2)
        traps = share_of(half, counterexamples)
        steps: list[tuple[Subcase, str]] = []
        # The first rounds are as balanced over the kinds as all of them.
        for place, kind in enumerate(rounds(SUBCASES, half, chance)):
            steps += [(kind, "entailed"), (kind, "trap" if place < traps else "foreign")]
        # In random order, evenly spaced pairs are representative.
        return chance.sample(steps[:count], k=count)

    def make(self, step: tuple[Subcase, str], chance: Random) -> Example:
        """Draw a pair, given the kind of its premise and the field of Drawn that holds its hypothesis."""
        kind, field = step
        drawn = draw(kind, chance)
        label = ENTAILMENT if field == "entailed" else NON_ENTAILMENT
        subcase = split_name(kind.heuristic, kind.label, kind.name)
        return Example(drawn.premise, getattr(drawn, field), label, subcase)
