"""The auxiliary that a question begins with: hierarchical or linear rule (McCoy, Frank and Linzen 2020).

"The baker can greet the nurse who will wait." becomes "Can the baker greet the nurse who will wait?": a question begins
with the auxiliary of the main clause (hierarchical rule), which in many sentences is also the first one (linear rule).
The task is to name that auxiliary. The models of the paper write the whole question; here the answer is one of five
classes, so that encoders and decoders can learn it. Words and code are our own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from data.examples import Example
from data.examples.drawing import DrawnExamples, rounds, share_of
from data.examples.grammar.words import NEAR, WHO, Words

AUXILIARIES = ("can", "might", "must", "should", "will")
TRANSITIVE = (
    "praise blame greet ignore follow rescue scold hire visit tease warn mock flatter welcome chase trick comfort "
    "insult hug push phone interrupt defend trust"
).split()
INTRANSITIVE = "cough dance hesitate kneel laugh pray rest shout sneeze sleep smile tremble wait weep whistle".split()


@dataclass
class QuestionFormation(DrawnExamples):
    """Declarative sentences, labeled with the auxiliary that the question begins with.

    In `train` and `val` both rules give the same answer, because the subject has no relative clause. Out of
    distribution, in `subject_clause` and `both_clauses`, it has one, and the linear rule is always wrong; so it is in
    counterexamples. Labels and kinds of sentence (`subcase`) differ in number by at most one. No sentence occurs twice.
    """

    train: int = 12000
    minimum = (len(AUXILIARIES), "sentences")

    def held_out_steps(self) -> dict[str, list[tuple[str, str]]]:
        """Return the steps of `subject_clause` and `both_clauses`."""
        return {
            name: rounds([(name, label) for label in AUXILIARIES], self.ood, Random(f"{name} {self.held_out_seed}"))
            for name in _DIFFERENT
        }

    def steps(self, split: str, count: int, counterexamples: float, seed: int) -> list[tuple[str, str]]:
        """Return `count` steps through kinds and labels; the rules differ on the share `counterexamples` of them."""
        chance = Random(f"{split} {seed}")
        parting = share_of(count, counterexamples)
        steps = []
        for kinds, number in ((_SAME, count - parting), (_DIFFERENT, parting)):
            steps += rounds([(kind, label) for kind in kinds for label in AUXILIARIES], number, chance)
        return chance.sample(steps, k=count)

    def make(self, step: tuple[str, str], chance: Random) -> Example:
        """Draw a sentence of a kind and a label."""
        kind, label = step
        words = Words(chance)
        others = [auxiliary for auxiliary in AUXILIARIES if auxiliary != label]
        text = _KINDS[kind](words, label, chance.sample(others, k=2))
        return Example(text[0].upper() + text[1:] + ".", None, label, kind)


def _does(words: Words) -> str:
    """Draw a verb with its object or place."""
    if words.chance.random() < 0.5:
        return f"{words.one_of(INTRANSITIVE)} in the {words.place()}"
    return f"{words.one_of(TRANSITIVE)} the {words.noun()}"


def _clause(words: Words, auxiliary: str) -> str:
    return f"{words.any_of(WHO)} {auxiliary} {_does(words)}"


def _simple(words: Words, main: str, others: list[str]) -> str:
    return f"the {words.noun()} {main} {_does(words)}"


def _preposition(words: Words, main: str, others: list[str]) -> str:
    return f"the {words.noun()} {words.any_of(NEAR)} the {words.noun()} {main} {_does(words)}"


def _object_clause(words: Words, main: str, others: list[str]) -> str:
    verb = words.one_of(TRANSITIVE)
    return f"the {words.noun()} {main} {verb} the {words.noun()} {_clause(words, others[0])}"


def _two_verbs(words: Words, main: str, others: list[str]) -> str:
    return f"the {words.noun()} {main} {_does(words)} and {others[0]} {_does(words)}"


def _subject_clause(words: Words, main: str, others: list[str]) -> str:
    return f"the {words.noun()} {_clause(words, others[0])} {main} {_does(words)}"


def _both_clauses(words: Words, main: str, others: list[str]) -> str:
    subject = f"the {words.noun()} {_clause(words, others[0])}"
    return f"{subject} {main} {words.one_of(TRANSITIVE)} the {words.noun()} {_clause(words, others[1])}"


_KINDS: dict[str, Callable[[Words, str, list[str]], str]] = {
    "simple": _simple,
    "preposition": _preposition,
    "object_clause": _object_clause,
    "two_verbs": _two_verbs,
    "subject_clause": _subject_clause,
    "both_clauses": _both_clauses,
}
_SAME = ("simple", "preposition", "object_clause", "two_verbs")
_DIFFERENT = ("subject_clause", "both_clauses")
