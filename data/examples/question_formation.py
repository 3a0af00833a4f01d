"""The auxiliary that a question begins with: hierarchical or linear rule (McCoy, Frank and Linzen 2020).

"The baker can greet the nurse who will wait." becomes "Can the baker greet the nurse who will wait?": a question begins
with the auxiliary of the main clause (hierarchical rule), which in many sentences is also the first one (linear rule).
The task is to name that auxiliary. The models of the paper write the whole question; here the answer is one of five
classes, so that encoders and decoders can learn it. Words and code are our own.
"""

from collections.abc import Callable
from random import Random

from data.examples import Example
from data.examples.drawing import check_amounts, distinct, rounds, share_of
from data.examples.grammar.words import NEAR, WHO, Words

AUXILIARIES = ("can", "might", "must", "should", "will")
TRANSITIVE = (
    "praise blame greet ignore follow rescue scold hire visit tease warn mock flatter welcome chase trick comfort "
    "insult hug push phone interrupt defend trust"
).split()
INTRANSITIVE = "cough dance hesitate kneel laugh pray rest shout sneeze sleep smile tremble wait weep whistle".split()


class QuestionFormation:
    """Declarative sentences, labeled with the auxiliary that the question begins with.

    In `train` and `val` both rules give the same answer, because the subject has no relative clause. Out of
    distribution, in `subject_clause` and `both_clauses`, it has one, and the linear rule is always wrong. Labels and
    kinds of sentence (`subcase`) differ in number by at most one. No sentence occurs twice.

    Args:
        train: Number of training sentences.
        val: Number of validation sentences.
        ood: Number of sentences per split out of distribution.
        counterexamples: Share, 0 to 1, of the training sentences on which the two rules differ.
        seed: Seed of the training sentences.
        held_out_seed: Seed of all other splits, which do not depend on `seed` and `counterexamples`.

    Raises:
        ValueError: If a number is out of range; from splits(), if the grammar has too few examples.
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
        check_amounts({"train": train, "val": val, "ood": ood}, len(AUXILIARIES), "sentences", counterexamples)
        self.train = train
        self.val = val
        self.ood = ood
        self.counterexamples = counterexamples
        self.seed = seed
        self.held_out_seed = held_out_seed

    def splits(self) -> dict[str, list[Example]]:
        """Return `train`, `val`, `subject_clause` and `both_clauses`."""
        used: set[str] = set()
        held_out = {}
        for name in _DIFFERENT:
            steps = rounds([(name, label) for label in AUXILIARIES], self.ood, Random(f"{name} {self.held_out_seed}"))
            held_out[name] = distinct(name, steps, self.held_out_seed, used, _make)
        val = distinct("val", _steps("val", self.val, 0.0, self.held_out_seed), self.held_out_seed, used, _make)
        steps = _steps("train", self.train, self.counterexamples, self.seed)
        return {"train": distinct("train", steps, self.seed, used, _make), "val": val, **held_out}


# The kind of a sentence, and its label.
_Step = tuple[str, str]


def _steps(split: str, count: int, counterexamples: float, seed: int) -> list[_Step]:
    """Return `count` steps through kinds and labels; the rules differ on the share `counterexamples` of them."""
    chance = Random(f"{split} {seed}")
    parting = share_of(count, counterexamples)
    steps = []
    for kinds, number in ((_SAME, count - parting), (_DIFFERENT, parting)):
        steps += rounds([(kind, label) for kind in kinds for label in AUXILIARIES], number, chance)
    return chance.sample(steps, k=count)


def _make(step: _Step, chance: Random) -> Example:
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
